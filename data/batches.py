"""Batches as a pure function of (seed, step).

Letters: B batch, T length.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import grain
import numpy as np
from grain.experimental import index_shuffle

from .config import DataConfig
from .mixture import make_mixture
from .preparation import prepare
from .ramp import Ramp
from .store import Corpus
from .tasks import make_task
from .tasks.task import Batch, BatchedRows, Rows, Setting
from .tokenizer import Tokenizer


def open_rows(config: DataConfig, corpus: Corpus, split: str, *, evaluating: bool = False) -> Rows:
    """The rows that the config's task makes of a split, all parts of it.

    Raises:
        ValueError: there is too little text for one.
    """
    documents = range(corpus.parts(split)[-1].stop)
    return make_task(config).open(corpus, split, config, documents, evaluating=evaluating)


def blank_row(config: DataConfig, *, num_classes: int = 0) -> Batch:
    """A row of padding as training reads it, without a corpus: its names, shapes and types are those of all rows.

    Args:
        config: says the task and the length.
        num_classes: of labels, where a row says of each whether it has it.
    """
    tokenizer = cast(Tokenizer, _NoTokenizer())
    return make_task(config).padding(Setting(tokenizer, config, ("",) * num_classes))


class _NoTokenizer:
    """Padding is all that a blank row asks of a tokenizer."""

    pad_id = 0


class TrainingRows:
    """The rows of the train split in their order: place i is row order(i) of the part that the mixture says.

    Every part has an order of its own, in which each of its rows comes once an epoch.

    Args:
        config: its source says the shares of the parts.
        corpus: the corpus.
        seed: of the orders.

    Raises:
        ValueError: a part has too little text for a row, or the corpus has other parts than the config.
    """

    def __init__(self, config: DataConfig, corpus: Corpus, seed: int):
        task, parts = make_task(config), corpus.parts("train")
        self._parts = [task.open(corpus, "train", config, part, evaluating=False) for part in parts]
        self._mixture = make_mixture(config.source, [len(part) for part in self._parts])
        self._seeds = [_mix(f"{seed}/{i}" if i else f"{seed}") for i in range(len(parts))]

    def batch(self, places: Sequence[int]) -> Batch:
        """The rows of some places, stacked."""
        found = [self._mixture.find(place) for place in places]
        batch: Batch = {}
        for part, rows in enumerate(self._parts):
            mine = [i for i, (of, _) in enumerate(found) if of == part]
            if not mine:
                continue
            order = [_shuffled(found[i][1], len(rows), self._seeds[part]) for i in mine]
            read = _read(rows, order, self._seeds[0], [places[i] for i in mine])
            if len(mine) == len(places):
                return read
            for name, array in read.items():
                batch.setdefault(name, np.empty((len(places), *array.shape[1:]), array.dtype))[mine] = array
        return batch

    def epochs(self, num_rows: int) -> list[float]:
        """How often each part is seen in the first `num_rows` places."""
        counts = self._mixture.counts(num_rows)
        return [count / len(part) for count, part in zip(counts, self._parts, strict=True)]


class _Batches:
    """Step s of an endless order as a random-access source: the B places after those of the steps before it."""

    def __init__(self, order: TrainingRows, ramp: Ramp, rows: Callable[[int], Sequence[int]]):
        self._order, self._ramp, self._rows = order, ramp, rows

    def __len__(self) -> int:
        return sys.maxsize // max(self._ramp.sizes)

    def __getitem__(self, index: int) -> Batch:
        step = int(index)
        first = self._ramp.rows_before(step)
        return self._order.batch([first + int(row) for row in self._rows(self._ramp.size(step))])


def _shuffled(place: int, num_rows: int, seed: int) -> int:
    """The row at a place of an order that has each row once an epoch: Grain's own shuffle, repeated without end."""
    epoch, place = divmod(place, num_rows)
    return index_shuffle(place, max_index=num_rows - 1, seed=(seed + epoch) % 2**32, rounds=4)


def _read(rows: Rows, indices: Sequence[int], seed: int, places: Sequence[int]) -> Batch:
    """Rows, stacked; those that leave something to chance get random numbers of their own, which take their time."""
    if hasattr(rows, "get_batch"):
        return cast(BatchedRows, rows).get_batch(indices)
    return _stack([rows.get(i, generator(seed, place)) for i, place in zip(indices, places, strict=True)])


def generator(seed: int, place: int) -> np.random.Generator:
    """The random numbers of place `place` in an order."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, place], np.uint64)))


def _mix(seed: str) -> int:
    """A seed of 32 bits; Grain adds the epoch to it, so near seeds would give each other's orders."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")


def _stack(examples: list[Batch]) -> Batch:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def make_batches(
    config: Any,
    *,
    corpus: Corpus | None = None,
    seed: int = 0,
    start: int = 0,
    rows: Sequence[int] | Callable[[int], Sequence[int]] = range,
) -> Iterator[Batch]:
    """Yields the training batches from step `start` on, without end.

    Every row comes once an epoch, in an order that the seed and the epoch decide, and the parts of a mixture alternate
    by their shares; batch s is the same whatever step one starts at and however many processes read, and finding it
    takes no time.

    Args:
        config: a DataConfig, or a mapping with its keys.
        corpus: what to read; None is the config's, which is prepared if it is not there.
        seed: of the order.
        start: first step.
        rows: the rows of the global batch to read, or a function that says them for a batch of a size; all of them by
            default.

    Yields:
        Dicts of arrays (rows, ...), as the config's task makes them.

    Raises:
        ValueError: the corpus cannot be prepared, or is too short for a row.

    Example:
        batch = next(make_batches(config.data, seed=config.seed))
    """
    config = DataConfig.of(config)
    order = TrainingRows(config, corpus or prepare(config), seed)
    rows_of = rows if callable(rows) else lambda size: rows
    batches = grain.MapDataset.source(_Batches(order, config.ramp, rows_of))
    options = grain.ReadOptions(num_threads=config.read_threads, prefetch_buffer_size=config.prefetch)
    return iter(batches.slice(slice(start, None)).to_iter_dataset(options))


def eval_batches(
    config: Any,
    *,
    corpus: Corpus | None = None,
    split: str = "valid",
    examples: Rows | None = None,
    limit: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yields each row of a split once, in order; the last batch is filled up with rows of padding.

    Args:
        config: as in `make_batches`.
        corpus: as in `make_batches`.
        split: "valid" or "train".
        examples: the rows of the split, if they are open already.
        limit: at most this many batches; 0 is all.
        rows: the rows of each batch to read; None reads all.

    Yields:
        Dicts of arrays (rows, ...), as the config's task makes them to evaluate.

    Raises:
        ValueError: as in `make_batches`.
    """
    config = DataConfig.of(config)
    if examples is None:
        examples = open_rows(config, corpus or prepare(config), split, evaluating=True)
    rows = range(config.batch_size) if rows is None else rows
    padding = examples.padding()
    num_batches = -(-len(examples) // config.batch_size)
    for step in range(min(limit, num_batches) if limit else num_batches):
        wanted = [step * config.batch_size + int(row) for row in rows]
        there = [i for i in wanted if i < len(examples)]
        batch = _read(examples, there, 0, there) if there else {}
        missing = [padding] * (len(wanted) - len(there))
        yield {name: np.stack([*batch.get(name, ()), *(row[name] for row in missing)]) for name in padding}
