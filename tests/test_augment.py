"""Augmentation: what it does to a text, and that it is a function of the generator."""

from collections import Counter

import numpy as np
import pytest

from data import DataConfig, make_task
from data.augment import AUGMENTATIONS, make_augmentation

from .task_cases import data_config

TEXT = "  one two\nthree  four five six\tseven eight nine ten "


def augmented(way: str, text: str, number: int) -> list[str]:
    augment = make_augmentation((way,), ("text",), task="classification")
    return [augment({"text": text, "label": "x"}, np.random.default_rng(seed))["text"] for seed in range(number)]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_token_dropout_puts_blanks(rate: float):
    results = augmented(f"token_dropout,rate={rate}", TEXT, 500)
    blanks = sum(result.split().count("_") for result in results)
    assert abs(blanks - 5000 * rate) < 4 * np.sqrt(5000 * rate * (1 - rate))
    for result in results:
        pairs = zip(result.split(), TEXT.split(), strict=True)
        assert all(ours in ("_", theirs) for ours, theirs in pairs)
    assert augmented("token_dropout,rate=1,blank=##", " a b\n", 1) == [" ## ##\n"]


def test_delete_leaves_words_out_but_never_all():
    results = augmented("delete,rate=0.3", TEXT, 500)
    kept = sum(len(result.split()) for result in results)
    assert abs(kept - 3500) < 4 * np.sqrt(5000 * 0.21)
    left = [[*filter(result.split().__contains__, TEXT.split())] for result in results]
    assert [result.split() for result in results] == left
    alone = Counter(result.strip() for result in augmented("delete,rate=1", TEXT, 300))
    assert set(alone) == set(TEXT.split())


def test_swap_keeps_the_words_and_the_space_between():
    results = augmented("swap,rate=0.2", TEXT, 300)
    assert all(sorted(result.split()) == sorted(TEXT.split()) for result in results)
    assert all([c for c in result if c.isspace()] == [c for c in TEXT if c.isspace()] for result in results)
    moved = sum(a != b for result in results for a, b in zip(result.split(), TEXT.split(), strict=True))
    assert 2 * 300 < moved < 2 * 600  # about 2 exchanges of 2 words each
    assert set(augmented("swap,rate=0.5", "a b", 20)) == {"a b", "b a"}


@pytest.mark.parametrize("way", AUGMENTATIONS)
@pytest.mark.parametrize("text", ["", " \n", "word", " word "])
def test_short_texts_are_left_as_texts(way: str, text: str):
    for result in augmented(way, text, 20):
        assert result in (text, text.replace("word", "_"))


def test_the_same_generator_does_the_same():
    assert augmented("swap", TEXT, 20) == augmented("swap", TEXT, 20)
    assert len(set(augmented("swap,rate=0.5", TEXT, 20))) > 10


def test_ways_follow_one_another_and_touch_the_texts_alone():
    augment = make_augmentation(("token_dropout,rate=1", "token_dropout,rate=1,blank=x"), ("text",), task="t")
    example = {"text": "a b", "label": "a b"}
    assert augment(example, np.random.default_rng(0)) == {"text": "x x", "label": "a b"}
    assert example == {"text": "a b", "label": "a b"}


def test_a_text_that_is_missing_stays_missing():
    augment = make_augmentation(("token_dropout,rate=1",), ("text", "text_b"), task="classification")
    assert augment({"text": "a", "text_b": None}, np.random.default_rng(0)) == {"text": "_", "text_b": None}


@pytest.mark.parametrize(
    ("task", "way", "said"),
    [
        (
            "classification",
            "shout",
            r"config\.data\.augment='shout': 'shout' is not known; use one of token",
        ),
        ("classification", "swap,much=1", r"'much' is no option of 'swap'"),
        ("questions", "swap", r"config\.data\.augment=\('swap',\) cannot be used with config\.data\.task='questions'"),
        ("tags", "delete", r"cannot be used with config\.data\.task='tags'"),
        ("causal_lm", "delete", r"cannot be used with config\.data\.task='causal_lm'"),
    ],
)
def test_what_does_not_suit_is_named(task: str, way: str, said: str):
    config = DataConfig(**{**vars(data_config(task=task)), "augment": (way,)})
    with pytest.raises(ValueError, match=said):
        make_task(config)
