"""Beam search against all sequences there are, in NumPy, and against itself in other batches.

tests/reference/test_beams.py holds it to `transformers`.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import GREEDY, Beams, Sampling, beam_search, generate
from tests.helpers import random_model

VOCAB, LENGTH, EOS = 5, 4, 0
PROMPTS = np.array([[3, 1, 4, 1, 2], [4, 2, 0, 0, 0], [1, 0, 0, 0, 0]], np.int32)
LENGTHS = np.array([5, 2, 1], np.int32)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
DECODER: dict[str, Any] = {"vocab_size": VOCAB, "num_kv_heads": 2, "num_layers": 1}
BOTH: dict[str, Any] = {"vocab_size": VOCAB, "num_kv_heads": 4, "architecture": "encoder_decoder", "num_layers": 1}
BOTH |= {"position": "relative,buckets=8,distance=16"}


@functools.cache
def model_of(kind: str) -> tuple[Any, Any]:
    model, params = random_model(**(DECODER if kind == "decoder" else BOTH))
    return model, {**params, "head": params["head"] * 0.3}  # less sure of itself, so that all sequences are in the race


def search(kind: str, beams: Beams, rows: slice = slice(None), max_tokens: int = LENGTH, eos_id: int = EOS):
    """Our beams of `PROMPTS`; an encoder-decoder reads them and begins with token 2."""
    prompts, lengths, memory = PROMPTS[rows], LENGTHS[rows], {}
    if kind == "both":
        memory = {"encoder_tokens_BS": prompts, "encoder_lengths_B": lengths}
        prompts, lengths = np.full((len(lengths), 1), 2, np.int32), np.sign(lengths)
    tokens, scores = beam_search(
        *model_of(kind), prompts, lengths, max_tokens, room=8, beams=beams, eos_id=eos_id, **memory
    )
    return np.asarray(tokens), np.asarray(scores)


@functools.cache
def log_probs(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """All sequences of `LENGTH` tokens, and the log-probability of each token after each prompt, without a cache."""
    model, params = model_of(kind)
    sequences = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)), np.int32)
    apply, found = jit(model.apply), []
    for prompt, length in zip(PROMPTS, LENGTHS, strict=True):
        n, memory = len(sequences), {}
        before = np.broadcast_to(prompt[:length], (n, length))
        if kind == "both":
            before, memory = np.full((n, 1), 2, np.int32), {"encoder_tokens_BS": jnp.asarray(before)}
        logits = apply({"params": params}, np.concatenate((before, sequences), axis=1), **memory)
        logits = np.asarray(logits, np.float64)[:, before.shape[1] - 1 : -1]
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        found.append(np.take_along_axis(logits, sequences[..., None], axis=-1)[..., 0])
    return sequences, np.array(found)


def best(kind: str, row: int, length_penalty: float) -> list[tuple[float, list[int]]]:
    """Every sequence that ends with the first end or at `LENGTH`, by its score."""
    sequences, found = log_probs(kind)
    scores: dict[tuple[int, ...], float] = {}
    for tokens, each in zip(sequences.tolist(), found[row], strict=True):
        n = tokens.index(EOS) + 1 if EOS in tokens else LENGTH
        scores[tuple(tokens[:n])] = each[:n].sum() / n**length_penalty
    return sorted(((score, list(tokens)) for tokens, score in scores.items()), reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("kind", ["decoder", "both"])
def test_a_search_wide_enough_finds_all_sequences_in_order(kind: str, length_penalty: float):
    tokens, scores = search(kind, Beams(beams=350, length_penalty=length_penalty))
    for row in range(len(PROMPTS)):
        expected = best(kind, row, length_penalty)
        assert len(expected) == 1 + 4 + 16 + 64 * 5
        np.testing.assert_allclose(scores[row, :341], [score for score, _ in expected], rtol=1e-4)
        assert (scores[row, 341:] < -1e8).all()  # there are no more
        theirs = {tuple(tokens): score for score, tokens in expected}
        for found, score in zip(tokens[row, :341, :LENGTH].tolist(), scores[row], strict=False):
            n = found.index(EOS) + 1 if EOS in found else LENGTH
            assert found[n:] == [EOS] * (LENGTH - n)
            assert score == pytest.approx(theirs.pop(tuple(found[:n])), rel=1e-4)


@pytest.mark.parametrize("kind", ["decoder", "both"])
def test_one_beam_is_greedy_search(kind: str):
    tokens, _ = search(kind, Beams(beams=1), eos_id=-1)
    prompts, lengths, memory = PROMPTS, LENGTHS, {}
    if kind == "both":
        memory = {"encoder_tokens_BS": prompts, "encoder_lengths_B": lengths}
        prompts, lengths = np.full((3, 1), 2, np.int32), np.ones(3, np.int32)
    expected = generate(
        *model_of(kind), prompts, lengths, jax.random.key(0), max_tokens=LENGTH, sampling=GREEDY, **memory
    )
    np.testing.assert_array_equal(tokens[:, 0, :LENGTH], expected)


def test_the_repetition_penalty_of_one_beam_is_that_of_log_probabilities():
    tokens, _ = search("decoder", Beams(beams=1, repetition_penalty=1e6), max_tokens=2, eos_id=-1)
    for row, prompt, length in zip(tokens[:, 0, :2].tolist(), PROMPTS, LENGTHS, strict=True):
        there = set(prompt[:length].tolist())
        assert len({*row, *there}) == min(VOCAB, 2 + len(there))
    free = generate(*model_of("decoder"), PROMPTS, LENGTHS, jax.random.key(0), max_tokens=2, sampling=Sampling(0.0))
    assert (np.asarray(free) != tokens[:, 0, :2]).any()


def test_the_beams_of_a_row_do_not_depend_on_the_others_or_on_rows_that_fill_up():
    beams = Beams(beams=3, early_stopping="true", repetition_penalty=1.1)
    tokens, scores = search("decoder", beams, max_tokens=7)
    for row in range(3):
        alone, score = search("decoder", beams, slice(row, row + 1), max_tokens=7)
        np.testing.assert_array_equal(alone[0], tokens[row])
        np.testing.assert_allclose(score[0], scores[row], rtol=1e-5)
    filled = (np.vstack((PROMPTS, PROMPTS * 0)), np.concatenate((LENGTHS, LENGTHS * 0)))
    more, _ = beam_search(*model_of("decoder"), *filled, 7, room=8, beams=beams, eos_id=EOS)
    np.testing.assert_array_equal(more[:3], tokens)


def test_early_stopping_is_content_with_less():
    first = {
        name: search("decoder", Beams(beams=2, early_stopping=name, length_penalty=2.0), max_tokens=8)[1][:, 0]
        for name in ("true", "false", "never")
    }
    assert (first["true"] <= first["false"] + 1e-6).all()
    assert (first["false"] <= first["never"] + 1e-6).all()
    assert (first["true"] < first["never"] - 1e-3).any()


def test_one_program_serves_all_numbers_of_tokens():
    beams = Beams(beams=2)
    search("decoder", beams, max_tokens=3)
    before = beam_search._cache_size()  # pyright: ignore
    for max_tokens in (1, 5, 8):
        tokens, _ = search("decoder", beams, max_tokens=max_tokens, eos_id=-1)
        assert (tokens[:, :, max_tokens:] == -1).all()
        assert (tokens[:, :, :max_tokens] >= 0).all()
    assert beam_search._cache_size() == before  # pyright: ignore
