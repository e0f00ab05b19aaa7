"""From what sources yield to what is stored: held out or not, readable, what the task takes, and each once."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple

from .config import DataConfig
from .filters import make_filters
from .sources import Broken, Example, Source
from .tasks.task import Task

_NAMED = 5  # of each reason to leave examples out
_PATIENCE = 10_000  # records; a source that is worse than is tolerated in so many is not read to its end


class Clean(NamedTuple):
    """An example to be stored.

    Attributes:
        name: as its source says.
        content: the text, or the fields as JSON.
    """

    name: str
    content: str


class LeftOut:
    """Counts what is left out, by reason."""

    def __init__(self):
        self.num_read = 0
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, reason: str, name: str) -> None:
        """Counts one more."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        if len(names) < _NAMED:
            names.append(name)

    def report(self) -> dict[str, dict[str, Any]]:
        """For each reason how many, their share of what was read, and the first names."""
        return {
            reason: {"count": count, "share": round(count / self.num_read, 6), "first": self._names[reason]}
            for reason, count in self._counts.items()
        }


class Cleaner:
    """The examples of each split. "valid" has to be read first, and to its end: what is in it is no training example.

    A validation source is somebody's benchmark, so all of its examples that can be read are kept; what is held out of
    the training source is cleaned like the rest. A training example that asks what a validation example asks is left
    out whatever its label or answer; of training examples those are left out that repeat another in all columns.

    Args:
        config: what is asked for.
        task: says which columns there must be.
        train: parts of the training source.
        valid: parts of the validation source; None holds out `config.valid_fraction` of the training source.

    Attributes:
        left_out: what was left out.
        parts: for each split the number of examples of each part.
    """

    def __init__(self, config: DataConfig, task: Task, train: Sequence[Source], valid: Sequence[Source] | None):
        self._config, self._task, self._train, self._valid = config, task, train, valid
        self.left_out = LeftOut()
        self.parts: dict[str, list[int]] = {}
        self._seen: set[bytes] = set()
        self._asked: set[bytes] = set()  # in the validation split
        self._filters = make_filters(config.filters)

    def peek(self, split: str) -> bool:
        """Whether a split has an example."""
        return next(Cleaner(self._config, self._task, self._train, self._valid).examples(split), None) is not None

    def examples(self, split: str) -> Iterator[Clean]:
        """Yields what is to be stored of a split."""
        is_benchmark = split == "valid" and self._valid is not None
        key, sources = ("valid_source", self._valid or []) if is_benchmark else ("source", self._train)
        bad = _Bad(f"config.data.{key}={getattr(self._config, key)!r}", self._config.max_bad_records)
        counts = self.parts[split] = [0] * len(sources)
        for part, source in enumerate(sources):
            for record in source.examples():
                for piece in _pieces(record, self._task.fields, self._config.chunk_bytes):
                    bad.count(piece)
                    if self._split_of(piece.name, is_benchmark) != split:
                        continue
                    self.left_out.num_read += 1
                    if isinstance(piece, Broken):
                        self.left_out.add("unreadable", f"{piece.name}: {piece.reason}")
                    elif reason := self._reject(piece, split, is_benchmark):
                        self.left_out.add(reason, piece.name)
                    else:
                        counts[part] += 1
                        yield piece
        bad.check()

    def _split_of(self, name: str, is_benchmark: bool) -> str:
        if self._valid is not None:
            return "valid" if is_benchmark else "train"
        share = int.from_bytes(hashlib.sha1(name.encode()).digest()[:8], "big") / 2**64
        return "valid" if share < self._config.valid_fraction else "train"

    def _reject(self, example: Clean, split: str, is_benchmark: bool) -> str:
        """Why an example is left out, "" if it is not."""
        if not example.content:
            return "empty"
        digest = _digest(example.content)
        asked = digest if self._is_text else _digest(self._question(example))
        if split == "valid":
            self._asked.add(asked)
        elif asked in self._asked:
            return "copy of a validation example"
        if digest in self._seen and not is_benchmark:
            return "exact repetition"
        self._seen.add(digest)
        if not self._filters:
            return ""
        text = self._text_of(example)
        if is_benchmark:
            for keeps in self._filters.values():  # so that what is nearly a copy of it is found in the training split
                keeps(text)
            return ""
        return next((name for name, keeps in self._filters.items() if not keeps(text)), "")

    @property
    def _is_text(self) -> bool:
        return set(self._task.fields) == {"text"}

    def _text_of(self, example: Clean) -> str:
        return example.content if self._is_text else "\n".join(self._task.texts(json.loads(example.content)))

    def _question(self, example: Clean) -> str:
        """What a labelled example asks, as JSON; all of one that asks nothing, such as a poem without a prompt."""
        asked = [*getattr(self._task, "asked", self._task.texts)(json.loads(example.content))]
        return json.dumps(asked) if "".join(asked).strip() else example.content


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class _Bad:
    """Tolerates some records that cannot be read.

    Raises:
        ValueError: there are more; it names the first of them.
    """

    def __init__(self, what: str, limit: float):
        self._what, self._limit = what, limit
        self._read, self._bad = 0, 0
        self._first: list[str] = []

    def count(self, record: Any) -> None:
        self._read += 1
        if isinstance(record, Broken):
            self._bad += 1
            if len(self._first) < _NAMED:
                self._first.append(f"{record.name}: {record.reason}")
            if self._bad > self._limit * max(self._read, _PATIENCE):
                self.check()

    def check(self) -> None:
        if self._bad > self._limit * self._read:
            raise ValueError(
                f"{self._what}: {self._bad} of the first {self._read} records cannot be read, which is more than "
                f"config.data.max_bad_records={self._limit} leaves out:\n  " + "\n  ".join(self._first)
            )


def _pieces(record: Example | Broken, wanted: Mapping[str, tuple[type, ...]], size: int) -> Iterator[Clean | Broken]:
    """What a record gives: of text its pieces, else the columns that are wanted as JSON."""
    if isinstance(record, Broken):
        yield record
        return
    name, fields = record
    missing = [column for column, types in wanted.items() if column not in fields and NoneType not in types]
    if missing:
        yield Broken(name, f"no column {missing[0]!r}; there are {', '.join(map(str, fields))}")
    elif set(wanted) == {"text"}:
        yield from _texts(name, fields["text"], size)
    else:
        yield _as_json(name, fields, wanted)


def _texts(name: str, text: Any, size: int) -> Iterator[Clean | Broken]:
    """A document, or its pieces of at most `size` bytes."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if not isinstance(text, bytes):
        yield Broken(name, f"column 'text' is {type(text).__name__}, not str")
        return
    for piece, content in _chunks(name, text, size):
        try:
            yield Clean(piece, content.decode())
        except UnicodeDecodeError as error:
            yield Broken(piece, f"column 'text' is not UTF-8 (byte {error.start})")


def _chunks(name: str, content: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    """Cuts a document into pieces of at most `size` bytes at line ends, or where it must in mid-line; 0 never cuts."""
    if not size or len(content) <= size:
        yield name, content
        return
    start = 0
    while start < len(content):
        end = len(content) if start + size >= len(content) else content.rfind(b"\n", start, start + size) + 1
        if end <= start:
            end = start + size
            while end > start + size - 3 and content[end] & 0xC0 == 0x80:  # not within a character
                end -= 1
        yield f"{name}@{start}", content[start:end]
        start = end


def _as_json(name: str, fields: Mapping[str, Any], wanted: Mapping[str, tuple[type, ...]]) -> Clean | Broken:
    kept = {}
    for column, types in wanted.items():
        if column not in fields:
            continue
        try:
            value = kept[column] = _converted(fields[column], types)
        except UnicodeDecodeError as error:
            return Broken(name, f"column {column!r} is not UTF-8 (byte {error.start})")
        if not isinstance(value, types):
            names = " or ".join(wanted_type.__name__ for wanted_type in types)
            return Broken(name, f"column {column!r} is {type(value).__name__}, not {names}")
    try:
        content = json.dumps(kept, ensure_ascii=False)
        content.encode()
    except UnicodeEncodeError:
        return Broken(name, f"column {_not_utf8(kept)!r} is not UTF-8")
    except (TypeError, ValueError) as error:
        return Broken(name, f"cannot be stored ({error})")
    return Clean(name, content)


def _not_utf8(fields: Mapping[str, Any]) -> str:
    """The first column with a lone surrogate, which no text has."""
    return next(column for column, value in fields.items() if re.search("[\ud800-\udfff]", str(value)))


def _converted(value: Any, types: tuple[type, ...]) -> Any:
    """Text for bytes, and numbers for text where text is not wanted: a CSV has nothing else."""
    if isinstance(value, bytes) and bytes not in types:
        value = value.decode()
    if isinstance(value, str) and str not in types:
        for number in (int, float):
            if number in types:
                try:
                    return number(value)
                except ValueError:
                    continue
    return value
