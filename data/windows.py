"""Windows over the token files: the rows of the tasks on text alone.

Letters: T length.
"""

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
        self._tokens = corpus.tokens(split)[starts[0] : starts[-1]]
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
        self._packing = config.packing
        # Windows of each document, and their running total, where documents have windows of their own.
        self._firsts = np.concatenate([[0], np.cumsum(-(-(np.diff(self._starts) - self._ahead) // self._length))])

    def __len__(self) -> int:
        if self._packing:
            return -(-(len(self._tokens) - self._ahead) // self._length)
        return int(self._firsts[-1])

    def _span(self, i: int) -> tuple[int, int]:
        """First token of window i and the one after its last; with targets a window has T + 1 tokens or fewer."""
        if self._packing:
            return i * self._length, min((i + 1) * self._length + self._ahead, len(self._tokens))
        document = int(np.searchsorted(self._firsts, i, side="right")) - 1
        start = int(self._starts[document]) + (i - int(self._firsts[document])) * self._length
        return start, min(start + self._length + self._ahead, int(self._starts[document + 1]))

    def get(self, index: int, rng: np.random.Generator | None = None) -> Batch:
        """Window `index`; nothing is left to chance."""
        del rng
        return self[index]

    def __getitem__(self, index: int) -> Batch:
        first, last = self._span(int(index))
        tokens = self._tokens[first:last].astype(np.int32)
        low, high = np.searchsorted(self._starts, (first + 1, last))
        opens = np.zeros(last - first, np.int32)
        opens[self._starts[low:high] - first] = 1
        segment_ids = 1 + np.cumsum(opens, dtype=np.int32)
        places = np.arange(last - first, dtype=np.int32)
        positions = places - np.maximum.accumulate(np.where(opens, places, 0))
        inputs = slice(0, len(tokens) - self._ahead)
        example = {"inputs": tokens[inputs], "segment_ids": segment_ids[inputs], "positions": positions[inputs]}
        if self._ahead:
            example["targets"] = tokens[1:]
            example["weights"] = (segment_ids[1:] == segment_ids[:-1]).astype(np.float32)
        if self._bytes is not None:
            example["target_bytes"] = self._bytes[tokens[1:]]
        short = self._length - len(example["inputs"])
        return {name: self._padded(name, array, short) for name, array in example.items()} if short else example

    def _padded(self, name: str, array: np.ndarray, short: int) -> np.ndarray:
        return np.pad(array, (0, short), constant_values=self._padding.get(name, 0))

    def padding(self) -> Batch:
        """A window of padding alone."""
        return {name: self._padded(name, array[:0], self._length) for name, array in self[0].items()}
