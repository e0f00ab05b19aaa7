"""What is too short, too odd or too much alike to learn from. A new filter is a function and its row in FILTERS."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from .near_duplicates import NearDuplicates
from .options import choose

Filter = Callable[[str], bool]  # whether a text is kept

# Writing without spaces between words: Han, kana, Thai, Lao, Myanmar, Khmer.
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_BULLETS = ("-", "*", "\u2022", "\u2023", "\u25e6", "\u25cf", "\u00b7")


def length(*, min: int = 0, max: int = 0) -> Filter:
    """Keeps texts of at least `min` and at most `max` characters; a `max` of 0 is none."""
    if max and max < min:
        raise ValueError(f"max={max} is below min={min}")
    return lambda text: min <= len(text) and (not max or len(text) <= max)


def regex(*, keep: str = "", drop: str = "") -> Filter:
    """Keeps texts in which `keep` is found and `drop` is not; ^ and $ match at lines."""
    try:
        wanted, unwanted = (re.compile(pattern, re.MULTILINE) if pattern else None for pattern in (keep, drop))
    except re.error as error:
        raise ValueError(f"keep={keep!r} or drop={drop!r} is no pattern: {error}") from error
    if not wanted and not unwanted:
        raise ValueError("keep=... or drop=... must be given")
    return lambda text: not (wanted and not wanted.search(text)) and not (unwanted and unwanted.search(text))


def quality(
    *,
    min_word: float = 3.0,
    max_word: float = 10.0,
    max_symbols: float = 0.1,
    min_alphabetic: float = 0.8,
    max_bullets: float = 0.9,
    max_ellipses: float = 0.3,
    max_repeated_lines: float = 0.3,
    max_repeated_text: float = 0.2,
    max_frequent_pair: float = 0.2,
) -> Filter:
    """Keeps what reads like prose: the rules of Gopher that need no language (Rae et al. 2021, arXiv:2112.11446, A.1).

    Args:
        min_word: mean characters of a word, at least; left out where writing has no spaces between words.
        max_word: the same, at most.
        max_symbols: "#" and ellipses for each word.
        min_alphabetic: share of words with a letter.
        max_bullets: share of lines that begin with one.
        max_ellipses: share of lines that end with one.
        max_repeated_lines: share of lines that are copies of one before.
        max_repeated_text: share of the characters that are in such lines.
        max_frequent_pair: share of the characters that are in the most frequent pair of words.
    """

    def keeps(text: str) -> bool:
        words, lines = text.split(), [line for line in map(str.strip, text.splitlines()) if line]
        if not words:
            return False
        characters = sum(map(len, words))
        spaced = 2 * len(_NO_SPACES.findall(text)) <= characters
        copies = _copies(lines)
        return (
            (not spaced or min_word <= characters / len(words) <= max_word)
            and text.count("#") + text.count("...") + text.count("\u2026") <= max_symbols * len(words)
            and sum(any(map(str.isalpha, word)) for word in words) >= min_alphabetic * len(words)
            and sum(line.startswith(_BULLETS) for line in lines) <= max_bullets * len(lines)
            and sum(line.endswith(("...", "\u2026")) for line in lines) <= max_ellipses * len(lines)
            and len(copies) <= max_repeated_lines * len(lines)
            and sum(map(len, copies)) <= max_repeated_text * sum(map(len, lines))
            and _frequent_pair(words) <= max_frequent_pair * characters
        )

    return keeps


def _copies(lines: Sequence[str]) -> list[str]:
    """The lines that another like them comes before."""
    return [line for line, count in Counter(lines).items() for _ in range(count - 1)]


def _frequent_pair(words: Sequence[str]) -> int:
    """Characters in the most frequent pair of words that comes more than once."""
    pairs = Counter(itertools.pairwise(words))
    (pair, count), *_ = pairs.most_common(1) or [(("", ""), 0)]
    return count * sum(map(len, pair)) if count > 1 else 0


def near_duplicates(*, threshold: float = 0.8, ngram: int = 5) -> Filter:
    """Keeps what is not like a text before it: the Jaccard similarity of their n-grams of characters, estimated.

    Args:
        threshold: from this similarity on a text is left out.
        ngram: characters, with runs of spaces as one and letters as small ones.
    """
    return NearDuplicates(threshold, ngram).is_new


FILTERS: dict[str, Callable[..., Filter]] = {
    "length": length,
    "regex": regex,
    "quality": quality,
    "near_duplicates": near_duplicates,
}


def make_filters(filters: Sequence[str]) -> dict[str, Filter]:
    """The filters of config.data.filters, by what it says.

    Raises:
        ValueError: one is not known, has an option it has not, or a value that cannot be.
    """
    made = {}
    for text in filters:
        try:
            made[text] = choose("config.data.filters", text, FILTERS).make()
        except ValueError as error:
            if str(error).startswith("config."):
                raise
            raise ValueError(f"config.data.filters={text!r}: {error}") from error
    return made
