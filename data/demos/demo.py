"""What a worked task's data is: three splits of flat examples that share nothing.

The split of an example is decided by a hash, or by the data's own split, so it is the same on every machine. The test
split is left as it is but for repetitions; what resembles it is taken out of the others.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

Example = dict[str, Any]
SPLITS = ("train", "valid", "test")

NEAR = 0.5  # texts are near duplicates when they have more than this part of their shingles in common (Jaccard)
SHINGLE = 4  # words


class Demo(NamedTuple):
    """The data of a worked task.

    Attributes:
        train, valid, test: each yields its examples, the same ones in the same order at each call.
        repeated: number of examples left out because an earlier one of their split has the same text.
        leaked: number of examples left out of train and valid because valid or test has the same or nearly the same.
    """

    train: Callable[[], Iterator[Example]]
    valid: Callable[[], Iterator[Example]]
    test: Callable[[], Iterator[Example]]
    repeated: int
    leaked: int


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def split_by_hash(text: str, *, valid: float = 0.1, test: float = 0.1) -> str:
    """The split of whatever is known by `text`; what must not be parted is given the same one."""
    at = fraction(text)
    return "test" if at < test else "valid" if at < test + valid else "train"


def words_of(text: str) -> list[str]:
    """The words that count when texts are compared: neither case nor punctuation do."""
    return re.findall(r"\w+", text.lower())


def shingles(text: str) -> set[int]:
    """Every run of SHINGLE words, as a hash; a shorter text is one run, and one without words is itself."""
    words = words_of(text)
    if len(words) < SHINGLE:
        return {hash(tuple(words) or text)}
    return set(map(hash, zip(*(words[i:] for i in range(SHINGLE)), strict=False)))


def near_duplicates(texts: Iterable[str], others: Iterable[str]) -> list[bool]:
    """For each text whether one of the others is a near duplicate: Jaccard similarity of shingles above NEAR."""
    sizes: list[int] = []
    having: dict[int, list[int]] = defaultdict(list)  # the numbers of the others that have a shingle
    for number, other in enumerate(others):
        found = shingles(other)
        sizes.append(len(found))
        for shingle in found:
            having[shingle].append(number)

    def has_one(text: str) -> bool:
        found = shingles(text)
        shared = Counter(number for shingle in found if shingle in having for number in having[shingle])
        return any(count > NEAR * (len(found) + sizes[number] - count) for number, count in shared.items())

    return [has_one(text) for text in texts]


def make_demo(splits: dict[str, list[Example]], text_of: Callable[[Example], str]) -> Demo:
    """Takes repetitions out of each split, and near duplicates of what is held out, out of train and valid.

    Args:
        splits: the examples of "train", "valid" and "test", each with a "name" of its own.
        text_of: the text by which examples are compared: what a model is given, not what it shall say.
    """
    repeated = leaked = 0
    held_out: list[str] = []
    kept: dict[str, list[Example]] = {}
    for split in reversed(SPLITS):
        first: dict[tuple[str, ...] | str, Example] = {}
        for example in splits[split]:
            text = text_of(example)
            first.setdefault(tuple(words_of(text)) or text, example)
        unique = list(first.values())
        near = near_duplicates(map(text_of, unique), held_out)
        kept[split] = [example for example, is_near in zip(unique, near, strict=True) if not is_near]
        repeated += len(splits[split]) - len(unique)
        leaked += sum(near)
        held_out.extend(map(text_of, kept[split]))
    train, valid, test = (_reader(kept[split]) for split in SPLITS)
    return Demo(train, valid, test, repeated=repeated, leaked=leaked)


def _reader(examples: list[Example]) -> Callable[[], Iterator[Example]]:
    return lambda: iter(examples)


def split_examples(examples: Iterable[Example], split_of: Callable[[Example], str]) -> dict[str, list[Example]]:
    """The examples of each split, in their order."""
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for example in examples:
        splits[split_of(example)].append(example)
    return splits
