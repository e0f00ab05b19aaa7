"""Windows over the token files, and batches of them as a pure function of (seed, step).

Letters: B batch, T length.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from .config import DataConfig
from .preparation import prepare
from .store import Corpus

Batch = dict[str, np.ndarray]


class Windows:
    """Random access to the examples of a split; Grain reads it as a source.

    With packing, window i holds the tokens from i * T on, whatever documents they belong to; without, documents are
    cut into windows of their own and padded. Either way each token but the first of a window's documents is a target
    exactly once.

    An example is a dict of arrays (T,):
        inputs, targets: token ids, int32.
        weights: 1 where the target continues the document of its input, else 0, float32.
        segment_ids: which document of the window, from 1; 0 is padding, int32.
        positions: position in the document, counted from the start of the window at the earliest, int32.
        target_bytes: UTF-8 bytes of the target, see `Corpus.bytes_per_id`; only if asked for.

    Padding is pad_id in inputs and targets, and 0 elsewhere.
    """

    def __init__(self, corpus: Corpus, split: str, config: DataConfig, *, with_bytes: bool = False):
        self._tokens = corpus.tokens(split)
        self._starts = np.asarray(corpus.starts(split))
        self._length = config.seq_len
        self._bytes = corpus.bytes_per_id(split) if with_bytes else None
        pad_id = corpus.pad_id
        self._padding = {"inputs": pad_id, "targets": pad_id}
        if len(self._tokens) < self._length + 1:
            raise ValueError(
                f"config.data.seq_len={self._length} needs windows of {self._length + 1} tokens, but {split} in "
                f"{corpus.directory} has {len(self._tokens)}; use at most {len(self._tokens) - 1}, or more text"
            )
        self._packing = config.packing
        # Windows of each document, and their running total, where documents have windows of their own.
        self._firsts = np.concatenate([[0], np.cumsum(-(-(np.diff(self._starts) - 1) // self._length))])

    def __len__(self) -> int:
        if self._packing:
            return -(-(len(self._tokens) - 1) // self._length)
        return int(self._firsts[-1])

    def _span(self, i: int) -> tuple[int, int]:
        """First token of window i and the one after its last; a window has T + 1 tokens or fewer."""
        if self._packing:
            return i * self._length, min((i + 1) * self._length + 1, len(self._tokens))
        document = int(np.searchsorted(self._firsts, i, side="right")) - 1
        start = int(self._starts[document]) + (i - int(self._firsts[document])) * self._length
        return start, min(start + self._length + 1, int(self._starts[document + 1]))

    def __getitem__(self, index: int) -> Batch:
        first, last = self._span(int(index))
        tokens = self._tokens[first:last].astype(np.int32)
        low, high = np.searchsorted(self._starts, (first + 1, last))
        opens = np.zeros(last - first, np.int32)
        opens[self._starts[low:high] - first] = 1
        segment_ids = 1 + np.cumsum(opens, dtype=np.int32)
        places = np.arange(last - first, dtype=np.int32)
        positions = places - np.maximum.accumulate(np.where(opens, places, 0))
        example = {
            "inputs": tokens[:-1],
            "targets": tokens[1:],
            "weights": (segment_ids[1:] == segment_ids[:-1]).astype(np.float32),
            "segment_ids": segment_ids[:-1],
            "positions": positions[:-1],
        }
        if self._bytes is not None:
            example["target_bytes"] = self._bytes[tokens[1:]]
        short = self._length + 1 - (last - first)
        return {name: self._padded(name, array, short) for name, array in example.items()} if short else example

    def _padded(self, name: str, array: np.ndarray, short: int) -> np.ndarray:
        return np.pad(array, (0, short), constant_values=self._padding.get(name, 0))

    def padding(self) -> Batch:
        """An example of padding alone."""
        return {name: self._padded(name, array[:0], self._length) for name, array in self[0].items()}


class _Batches:
    """Step s of an endless order as a random-access source: rows [s * B, (s + 1) * B) of the shuffled examples."""

    def __init__(self, examples: Any, batch_size: int, rows: Sequence[int]):
        self._examples, self._batch_size, self._rows = examples, batch_size, rows

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, index: int) -> Batch:
        first = int(index) * self._batch_size
        return _stack([self._examples[first + int(row)] for row in self._rows])


def _mix(seed: int) -> int:
    """A seed of 32 bits; Grain adds the epoch to it, so near seeds would give each other's orders."""
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")


def _stack(examples: list[Batch]) -> Batch:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def make_batches(
    config: Any, *, corpus: Corpus | None = None, seed: int = 0, start: int = 0, rows: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Yields the training batches from step `start` on, without end.

    Every window comes once an epoch, in an order that the seed and the epoch decide; batch s is the same whatever
    step one starts at and however many processes read, and finding it takes no time.

    Args:
        config: a DataConfig, or a mapping with its keys.
        corpus: what to read; None is the config's, which is prepared if it is not there.
        seed: of the order.
        start: first step.
        rows: the rows of the global batch to read; None reads all.

    Yields:
        Dicts of arrays (rows, T), see `Windows`.

    Raises:
        ValueError: the corpus cannot be prepared, or is shorter than a window.

    Example:
        batch = next(make_batches(config.data, seed=config.seed))
    """
    config = DataConfig.of(config)
    windows = Windows(corpus or prepare(config), "train", config)
    examples = grain.MapDataset.source(windows).shuffle(seed=_mix(seed)).repeat(None)
    rows = range(config.batch_size) if rows is None else rows
    batches = grain.MapDataset.source(_Batches(examples, config.batch_size, rows))
    options = grain.ReadOptions(num_threads=config.read_threads, prefetch_buffer_size=config.prefetch)
    return iter(batches.slice(slice(start, None)).to_iter_dataset(options))


def eval_batches(
    config: Any,
    *,
    corpus: Corpus | None = None,
    split: str = "valid",
    limit: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yields each window of a split once, in order; the last batch is filled up with rows of padding.

    Args:
        config: as in `make_batches`.
        corpus: as in `make_batches`.
        split: "valid" or "train".
        limit: at most this many batches; 0 is all.
        rows: the rows of each batch to read; None reads all.

    Yields:
        Dicts of arrays (rows, T) with "target_bytes", see `Windows`.

    Raises:
        ValueError: as in `make_batches`.
    """
    config = DataConfig.of(config)
    windows = Windows(corpus or prepare(config), split, config, with_bytes=True)
    rows = range(config.batch_size) if rows is None else rows
    padding = windows.padding()
    num_batches = -(-len(windows) // config.batch_size)
    for step in range(min(limit, num_batches) if limit else num_batches):
        wanted = [step * config.batch_size + int(row) for row in rows]
        yield _stack([windows[i] if i < len(windows) else padding for i in wanted])
