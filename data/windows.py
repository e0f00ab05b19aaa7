"""Windows over the token files: the rows of the tasks on text alone.

Letters: B batch, T length.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .config import DataConfig
from .store import Corpus
from .tasks.task import Batch


class Windows:
    """Random access to the windows of a split.

    With packing, window i holds the tokens from i * T on, whatever documents they belong to; without, documents are
    cut into windows of their own and padded. Either way each token but the first of a window's documents is a target
    exactly once. Tasks that hide tokens rather than ask for the next one take windows that end where the next begins.

    A window is a dict of arrays (T,):
        inputs, targets: token ids, int32.
        weights: 1 where the target continues the document of its input, else 0, float32.
        segment_ids: which document of the window, from 1; 0 is padding, int32.
        positions: position in the document, counted from the start of the window at the earliest, int32.
        target_bytes: UTF-8 bytes of the target, see `Corpus.bytes_per_id`; only if asked for.

    If the targets are left to the task, a window has no weights and targets.

    Padding is pad_id in inputs and targets, and 0 elsewhere.

    Args:
        corpus: the corpus.
        split: "train" or "valid".
        config: length and packing.
        documents: a range of them; None is all.
        with_bytes: whether to give `target_bytes`.
        length: tokens in a window, if not config.data.seq_len.
        with_targets: whether the next tokens are the targets.

    Raises:
        ValueError: they are shorter than a window.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        config: DataConfig,
        *,
        documents: range | None = None,
        with_bytes: bool = False,
        length: int = 0,
        with_targets: bool = True,
    ):
        starts = np.asarray(corpus.starts(split))
        if documents is not None:
            starts = starts[documents.start : documents.stop + 1]
        self._tokens = np.asarray(corpus.tokens(split)[starts[0] : starts[-1]])
        self._starts = starts - starts[0]
        self._length = length or config.seq_len
        self._ahead = int(with_targets)
        self._bytes = corpus.bytes_per_id(split) if with_bytes else None
        pad_id = corpus.pad_id
        self._padding = {"inputs": pad_id, "targets": pad_id}
        if len(self._tokens) < self._length + self._ahead:
            at_most = (
                f"at most {len(self._tokens) - self._ahead}" if self._length == config.seq_len else "a smaller one"
            )
            raise ValueError(
                f"config.data.seq_len={config.seq_len} needs windows of {self._length + self._ahead} tokens, but "
                f"{split} in {corpus.directory} has {len(self._tokens)}; use {at_most}, or more text"
            )
        self._stretches = np.lib.stride_tricks.sliding_window_view(self._tokens, self._length + self._ahead)
        self._packing = config.packing
        # Windows of each document, and their running total, where documents have windows of their own.
        self._firsts = np.concatenate([[0], np.cumsum(-(-(np.diff(self._starts) - self._ahead) // self._length))])

    def __len__(self) -> int:
        if self._packing:
            return -(-(len(self._tokens) - self._ahead) // self._length)
        return int(self._firsts[-1])

    def get(self, index: int, rng: np.random.Generator | None = None) -> Batch:
        """Window `index`; nothing is left to chance."""
        del rng
        return self[index]

    def __getitem__(self, index: int) -> Batch:
        return {name: array[0] for name, array in self.get_batch([index]).items()}

    def get_batch(self, indices: Sequence[int]) -> Batch:
        """The windows of these numbers, arrays (B, T), made all at once: loaders live by it."""
        firsts, lasts = self._spans(np.asarray(indices, np.int64))
        tokens, opens = self._read(firsts, lasts), self._opens(firsts, lasts)
        places = np.arange(opens.shape[1], dtype=np.int32)
        segment_ids = np.cumsum(opens, axis=1, dtype=np.int32)
        segment_ids += 1
        positions = places - np.maximum.accumulate(places * opens, axis=1)
        here = slice(0, self._length)
        batch = {"inputs": tokens[:, here], "segment_ids": segment_ids[:, here], "positions": positions[:, here]}
        if self._ahead:
            batch["targets"] = tokens[:, 1:]
            batch["weights"] = (1 - opens[:, 1:]).astype(np.float32)  # 0 where the target opens a document
        if self._bytes is not None:
            batch["target_bytes"] = self._bytes[tokens[:, 1:]]
        lengths = lasts - firsts - self._ahead
        if lengths.min() == self._length:
            return batch
        real = places[here] < lengths[:, None]
        return {name: np.where(real, array, self._pad(name, array)) for name, array in batch.items()}

    def _pad(self, name: str, array: np.ndarray) -> Any:
        return array.dtype.type(self._padding.get(name, 0))

    def _spans(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token of each window and the one after its last; with targets a window has up to T + 1 tokens."""
        if self._packing:
            firsts, ends = indices * self._length, len(self._tokens)
        else:
            documents = np.searchsorted(self._firsts, indices, side="right") - 1
            firsts = self._starts[documents] + (indices - self._firsts[documents]) * self._length
            ends = self._starts[documents + 1]
        return firsts, np.minimum(firsts + self._length + self._ahead, ends)

    def _read(self, firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
        """The tokens from each first one on, (B, T + ahead), whatever documents they belong to."""
        last_start = len(self._stretches) - 1
        tokens = self._stretches[np.minimum(firsts, last_start)].astype(np.int32)
        for row in np.flatnonzero(firsts > last_start):  # at the end of the split there are too few
            tokens[row, : lasts[row] - firsts[row]] = self._tokens[firsts[row] : lasts[row]]
        return tokens

    def _opens(self, firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
        """1 where a document begins within a window, after its first token, else 0; (B, T + ahead) int32."""
        low, high = np.searchsorted(self._starts, (firsts + 1, lasts))
        counts = high - low
        rows = np.repeat(np.arange(len(firsts)), counts)
        starts = np.arange(len(rows)) + np.repeat(low - np.cumsum(counts) + counts, counts)
        opens = np.zeros((len(firsts), self._length + self._ahead), np.int32)
        opens[rows, self._starts[starts] - firsts[rows]] = 1
        return opens

    def padding(self) -> Batch:
        """A window of padding alone."""
        return {name: np.full_like(array, self._pad(name, array)) for name, array in self[0].items()}
