"""Saved tokenizers as `transformers` reads them, beside our own ids."""

from pathlib import Path
from typing import Any

import pytest

from data import Tokenizer, load_tokenizer
from data.tokenizer import train_tokenizer
from data.tokenizer_export import save_pretrained_tokenizer

from ..test_foreign_tokenizers import SENTENCES, byte_level, sentence_piece, word_piece, write
from ..test_tokenizer import NASTY, TEXTS, random_texts

pytestmark = pytest.mark.reference


def read(directory: Path) -> Any:
    """As a user of `transformers` reads them."""
    import transformers  # pyright: ignore[reportMissingImports]

    return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)


def framed(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text, with what stands around it by default."""
    before, after = tokenizer.framing
    return [*before, *tokenizer.encode(text), *after]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_tokenizer_that_was_trained_here_has_the_same_ids_there(kind: str, tmp_path: Path):
    ours = train_tokenizer(TEXTS, kind=kind, vocab_size=300)
    save_pretrained_tokenizer(ours, tmp_path / "once")
    theirs = read(tmp_path / "once")
    theirs.save_pretrained(tmp_path / "twice")
    roles = (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id)
    assert (len(theirs), *roles) == (300, 0, 1, 2, 3)
    texts = NASTY + TEXTS + ["<0x41>", "</s>", "<pad><unk>"] + (random_texts() if kind == "bpe" else [])
    for them in (theirs, read(tmp_path / "twice")):
        for text in texts:
            ids = ours.encode(text)
            assert them(text)["input_ids"] == [1, *ids] == framed(ours, text)
            assert them(text, add_special_tokens=False)["input_ids"] == ids
            assert them.decode([1, *ids, 2], skip_special_tokens=True) == text


@pytest.mark.parametrize("make", [byte_level, word_piece])
@pytest.mark.parametrize("beside", [{}, {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"}}])
def test_a_tokenizer_json_has_the_same_ids_there(make: Any, beside: dict[str, Any], tmp_path: Path):
    ours = load_tokenizer(write(tmp_path / "given", make(), **beside))
    save_pretrained_tokenizer(ours, tmp_path / "saved")
    theirs = read(tmp_path / "saved")
    assert len(theirs) == ours.vocab_size
    for text in NASTY + SENTENCES:
        options = {"truncation": False, "split_special_tokens": True}
        assert theirs(text, **options, add_special_tokens=False)["input_ids"] == ours.encode(text)
        assert theirs(text, **options)["input_ids"] == framed(ours, text)


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
def test_llamas_kind_of_model_has_the_same_ids_there(flags: dict[str, bool], tmp_path: Path):
    model = sentence_piece(
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ours = load_tokenizer(write(tmp_path / "given", model, tokenizer_config=config | flags))
    save_pretrained_tokenizer(ours, tmp_path / "saved")
    theirs = read(tmp_path / "saved")
    for text in SENTENCES:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
        assert theirs(text)["input_ids"] == framed(ours, text)


def test_t5s_kind_of_model_has_the_same_ids_there(tmp_path: Path):
    model = sentence_piece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "eos_token": "</s>", "pad_token": "<pad>"}
    ours = load_tokenizer(write(tmp_path / "given", model, tokenizer_config=config))
    save_pretrained_tokenizer(ours, tmp_path / "saved")
    theirs = read(tmp_path / "saved")
    assert len(theirs) == ours.vocab_size
    for text in SENTENCES:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
        assert theirs(text)["input_ids"] == framed(ours, text)
