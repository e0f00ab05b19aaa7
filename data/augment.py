"""Augmentation: examples that are changed a little each time they are seen. A new way is a function and its row.

A way takes its options and returns a function (texts, rng) -> texts on the fields of an example that its task lets
change, by name; labels, answers and targets are not among them. What it does follows from `rng` alone, which is seeded
with (seed, place of the row in the order), so a run that goes on sees what it would have seen. Evaluation has none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .options import choose

Augmentation = Callable[[dict[str, str], np.random.Generator], dict[str, str]]


def token_dropout(*, rate: float = 0.1, blank: str = "_") -> Augmentation:
    """Puts a blank in the place of each word with this probability (Xie et al. 2017, arXiv:1703.02573, 3.3)."""
    return _on_words(lambda words, rng: [blank if gone else word for word, gone in _chances(words, rate, rng)])


def delete(*, rate: float = 0.1) -> Augmentation:
    """Leaves out each word with this probability, but never all (Wei and Zou 2019, arXiv:1901.11196)."""

    def change(words: list[str], rng: np.random.Generator) -> list[str | None]:
        kept = [None if gone else word for word, gone in _chances(words, rate, rng)]
        if words and not any(kept):
            survivor = int(rng.integers(len(words)))
            kept[survivor] = words[survivor]
        return kept

    return _on_words(change)


def swap(*, rate: float = 0.1) -> Augmentation:
    """Exchanges two words of a text, about rate * words times (Wei and Zou 2019, arXiv:1901.11196)."""

    def change(words: list[str], rng: np.random.Generator) -> list[str | None]:
        changed: list[str | None] = [*words]
        for _ in range(int(rng.binomial(len(words), rate)) if len(words) > 1 else 0):
            a, b = rng.choice(len(words), 2, replace=False)
            changed[a], changed[b] = changed[b], changed[a]
        return changed

    return _on_words(change)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "token_dropout": token_dropout,
    "delete": delete,
    "swap": swap,
}


def make_augmentation(ways: Sequence[str], fields: Sequence[str], *, task: str) -> Callable[[Any, Any], dict[str, Any]]:
    """The function (example, rng) -> example that applies what a config asks for, one after the other.

    Args:
        ways: config.data.augment.
        fields: those that the task lets change.
        task: its name, for the error.

    Raises:
        ValueError: an unknown way, or the task lets nothing change.
    """
    functions = [choose("config.data.augment", way, AUGMENTATIONS).make() for way in ways]
    if functions and not fields:
        raise ValueError(
            f"config.data.augment={tuple(ways)!r} cannot be used with config.data.task={task!r}, whose labels "
            "or targets hang on the text as it is; use ()"
        )

    def augment(example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        texts = {name: example[name] for name in fields if example.get(name) is not None}
        for function in functions:
            texts = function(texts, rng)
        return {**example, **texts}

    return augment


def _chances(words: list[str], rate: float, rng: np.random.Generator) -> list[tuple[str, bool]]:
    return list(zip(words, (rng.random(len(words)) < rate).tolist(), strict=True))


def _on_words(change: Callable[[list[str], np.random.Generator], Sequence[str | None]]) -> Augmentation:
    """Changes the words of each text and keeps the white space between them; a word that becomes None takes its own."""

    def augment(texts: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
        return {name: _rewrite(text, change, rng) for name, text in texts.items()}

    return augment


def _rewrite(text: str, change: Callable[..., Sequence[str | None]], rng: np.random.Generator) -> str:
    first, *pairs = re.split(r"(\S+)", text)  # white space and words by turns
    words, spaces = pairs[::2], pairs[1::2]
    changed = zip(change(words, rng), spaces, strict=True)
    return first + "".join(word + space for word, space in changed if word is not None)
