"""Prefix language modelling: a decoder reads the beginning both ways and goes on from there.

Letters: T length.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..config import DataConfig
from ..store import Corpus
from ..tokenizer import Tokenizer
from ..windows import Windows
from .frame import blank
from .task import TEXT, Batch, Fields, Rows, Setting
from .written import no_tokens


@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """Each token after a random place follows from those before it (Raffel et al. 2020, arXiv:1910.10683, 3.2.1)."""

    objective = "tokens"
    architectures = ("decoder",)
    scores = ()
    fields = TEXT
    reads_both_ways = True  # what a text is to be continued from; other tasks do without this attribute

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """Any will do."""

    def texts(self, fields: Fields) -> Iterator[str]:
        """The document."""
        yield fields["text"]

    def padding(self, setting: Setting) -> Batch:
        """A row without text."""
        return no_tokens(setting) | blank(setting, ints=("order",))

    def open(self, corpus: Corpus, split: str, config: DataConfig, documents: range, *, evaluating: bool) -> Rows:
        """Windows with prefixes; those of an evaluation are always the same."""
        return Prefixed(Windows(corpus, split, config, documents=documents, with_bytes=evaluating))


class Prefixed:
    """Windows of which each document has a prefix, of one token at least, that leaves one token at least.

    A window has "order" (T,) int32 beside its arrays: 0 in a prefix, then 1, 2, ... in the rest of its document. A
    token sees those of its document whose order is no higher than its own. The targets that follow a prefix, and not
    those in it, have a weight.

    Args:
        windows: of text.
    """

    def __init__(self, windows: Windows):
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def get(self, index: int, rng: np.random.Generator) -> Batch:
        """Window `index`; `rng` decides where the prefixes end."""
        window = self._windows[index]
        segments = window["segment_ids"]
        sizes = np.bincount(segments)[1:]  # tokens of each document in the window
        prefixes = 1 + np.floor(rng.random(len(sizes)) * np.maximum(1, sizes - 1)).astype(np.int32)
        is_text = segments > 0
        firsts = np.searchsorted(segments[is_text], np.arange(1, len(sizes) + 1))
        document = np.maximum(segments, 1) - 1
        after = np.arange(len(segments)) - (firsts + prefixes)[document] + 1
        order = np.where(is_text, np.maximum(after, 0), 0).astype(np.int32)
        weights = np.where(after >= 0, window["weights"], 0).astype(np.float32)
        return window | {"order": order, "weights": weights}

    def padding(self) -> Batch:
        """A window without text."""
        window = self._windows.padding()
        return window | {"order": np.zeros_like(window["inputs"])}
