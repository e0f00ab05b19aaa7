"""Pairs of texts of which the second follows the first, or does not.

Letters: T length.
"""

import numpy as np

from ..config import DataConfig
from ..store import Corpus
from .frame import frame
from .task import Batch

NEXT, RANDOM = 0, 1


class Pairs:
    """Rows first a separator b separator: b is what follows a, or as likely a part of another document.

    By the way of BERT (Devlin et al. 2019, arXiv:1810.04805, appendix A.2), with tokens for sentences: documents are
    cut into pieces of T - 3 tokens, and a row is one of them in two parts, parted at a place that chance decides. Where
    b comes from elsewhere, it is as long as the second part, if the other document has so much.

    A row has, beside what `frame` gives, "segment_ids" and "positions" (T,), "labels" () int32, which is 0 if b
    follows, and "pair_weights" () float32, which is 0 in a row of padding.

    Args:
        corpus: the corpus.
        split: "train" or "valid".
        config: the length.
        documents: a range of them.
        weight: how much a row's pair weighs beside its tokens.

    Raises:
        ValueError: there are fewer than two documents with two tokens.
    """

    def __init__(self, corpus: Corpus, split: str, config: DataConfig, documents: range, *, weight: float):
        starts = np.asarray(corpus.starts(split))[documents.start : documents.stop + 1]
        self._ids, self._tokenizer, self._weight = corpus.tokens(split), corpus.tokenizer, weight
        self._length = config.seq_len
        begins, ends = starts[:-1] + 1, starts[1:] - 1  # without what begins and ends a document
        long_enough = ends - begins >= 2
        self._begins, self._ends = begins[long_enough], ends[long_enough]
        if len(self._begins) < 2:
            raise ValueError(
                f"config.data.task={config.task!r} pairs texts of two documents, but {split} in {corpus.directory} has "
                f"{len(self._begins)}; use masked_lm without next_sentence, or more text"
            )
        room = self._length - 3
        lengths = self._ends - self._begins
        numbers = lengths // room + (lengths % room > 1)  # a last piece of one token cannot be parted
        self._document = np.repeat(np.arange(len(numbers)), numbers)
        piece = np.arange(numbers.sum()) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        self._first = self._begins[self._document] + piece * room
        self._end = np.minimum(self._first + room, self._ends[self._document])

    def __len__(self) -> int:
        return len(self._first)

    def get(self, index: int, rng: np.random.Generator) -> Batch:
        """Row `index`; `rng` decides where it is parted and whether the second part is its own."""
        first, end = int(self._first[index]), int(self._end[index])
        cut = int(rng.integers(first + 1, end))
        label = int(rng.integers(2))
        b = self._ids[cut:end] if label == NEXT else self._elsewhere(int(self._document[index]), end - cut, rng)
        row = frame(self._tokenizer, self._length, self._ids[first:cut].tolist(), b.tolist())
        return self._padded(row) | {
            "labels": np.array(label, np.int32),
            "pair_weights": np.array(self._weight, np.float32),
        }

    def _elsewhere(self, document: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Tokens of another document, each of which is as likely, from a place that is as likely as any."""
        other = int(rng.integers(len(self._begins) - 1))
        other += other >= document
        begin, end = int(self._begins[other]), int(self._ends[other])
        first = int(rng.integers(begin, max(begin, end - length) + 1))
        return self._ids[first : min(first + length, end)]

    def _padded(self, row: Batch) -> Batch:
        length, short = len(row["inputs"]), self._length - len(row["inputs"])
        return {
            "inputs": np.pad(row["inputs"], (0, short), constant_values=self._tokenizer.pad_id),
            "token_types": np.pad(row["token_types"], (0, short)),
            "segment_ids": np.pad(np.ones(length, np.int32), (0, short)),
            "positions": np.pad(np.arange(length, dtype=np.int32), (0, short)),
        }

    def padding(self) -> Batch:
        """A row without texts."""
        empty = {name: np.zeros(0, np.int32) for name in ("inputs", "token_types")}
        return self._padded(empty) | no_pair()


def no_pair() -> Batch:
    """What a row says of its two texts, where there are none."""
    return {"labels": np.array(0, np.int32), "pair_weights": np.array(0, np.float32)}
