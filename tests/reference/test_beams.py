"""Beam search equals that of `transformers` on tiny models: `make test-reference` runs this with the extra [reference].

Prompts of several lengths are one padded batch here, and one call each there, where padding would count as a token
that the repetition penalty has seen.
"""

import functools
from typing import Any

import numpy as np
import pytest

from model import Beams, beam_search
from tests.reference import ours
from tests.reference.models import BOS, EOS, PAD
from tests.reference.weights import generator, make_rows, write_directory

pytestmark = pytest.mark.reference
LENGTHS = (9, 4, 1, 6)
ROOM = 32
CASES = [
    Beams(beams=1),
    Beams(beams=2),
    Beams(beams=4),
    Beams(beams=4, length_penalty=0.0),
    Beams(beams=4, length_penalty=2.0, early_stopping="never"),
    Beams(beams=4, length_penalty=-1.0),
    Beams(beams=3, early_stopping="true"),
    Beams(beams=5, repetition_penalty=1.3),
    Beams(beams=3, repetition_penalty=2.0, length_penalty=0.5, early_stopping="true"),
    Beams(beams=7, repetition_penalty=1.2, early_stopping="never"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our model and theirs, made once."""
    from tests.reference import theirs

    def load(family: str) -> tuple[ours.Imported, Any]:
        directory = write_directory(family, tmp_path_factory.mktemp(family))
        return ours.load(directory), theirs.load(family, directory)

    return functools.cache(load)


def their_beams(model: Any, prompt: np.ndarray, beams: Beams, eos_id: int, max_tokens: int) -> list[tuple]:
    """Every beam of one prompt, cut after its end, and its score."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    model.generation_config = transformers.GenerationConfig(
        num_beams=beams.beams,
        num_return_sequences=beams.beams,
        length_penalty=beams.length_penalty,
        early_stopping={"false": False, "true": True, "never": "never"}[beams.early_stopping],
        repetition_penalty=beams.repetition_penalty,
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=eos_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )
    tokens = torch.from_numpy(prompt[None]).to(torch.long)
    found = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), output_scores=True, return_dict_in_generate=True
    )
    start = 1 if model.config.is_encoder_decoder else len(prompt)
    scores = found.sequences_scores if beams.beams > 1 else [None]
    return [(cut(row[start:].tolist(), eos_id), score) for row, score in zip(found.sequences, scores, strict=True)]


def cut(tokens: list[int], eos_id: int) -> list[int]:
    """Up to the end, which is included."""
    return tokens[: tokens.index(eos_id) + 1] if eos_id in tokens else tokens


def our_beams(model: ours.Imported, prompts: list[np.ndarray], beams: Beams, eos_id: int, max_tokens: int) -> Any:
    """The same of all prompts."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.full((len(prompts), lengths.max()), PAD, np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    memory = {}
    if model.model.config.encoder is not None:
        memory = {"encoder_tokens_BS": tokens, "encoder_lengths_B": lengths}
        tokens = np.full((len(prompts), 1), model.source.config["decoder_start_token_id"], np.int32)
        lengths = np.ones(len(prompts), np.int32)
    found, scores = beam_search(
        model.model, model.params, tokens, lengths, max_tokens, room=ROOM, beams=beams, eos_id=eos_id, **memory
    )
    return np.asarray(found)[:, :, :max_tokens], np.asarray(scores)


@pytest.mark.parametrize("beams", CASES, ids=str)
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_beams_are_those_of_transformers(models: Any, family: str, beams: Beams):
    model, reference = models(family)
    rng = generator("beams", family)
    prompts = [row[:n] for row, n in zip(make_rows(rng, LENGTHS, max(LENGTHS))[0], LENGTHS, strict=True)]
    # Random models hardly reach the real end: tokens that they do reach serve as well, if both sides take them for it.
    free, _ = our_beams(model, prompts, beams, -1, ROOM)
    ended = 0
    for eos_id, max_tokens in ((EOS, 5), (free[0, 0, 6], 24), (free[1, 0, 3], 24), (free[3, -1, 9], 24)):
        eos_id = int(eos_id)
        found, scores = our_beams(model, prompts, beams, eos_id, max_tokens)
        for row, prompt in enumerate(prompts):
            expected = their_beams(reference, prompt, beams, eos_id, max_tokens)
            assert [cut(tokens, eos_id) for tokens in found[row].tolist()] == [tokens for tokens, _ in expected]
            for score, (tokens, their_score) in zip(scores[row], expected, strict=True):
                ended += tokens[-1] == eos_id
                if their_score is not None:
                    assert score == pytest.approx(float(their_score), rel=1e-4)
    assert ended
