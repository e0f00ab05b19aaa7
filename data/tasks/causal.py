"""Causal language modelling: each token follows from those before it."""

import dataclasses
from collections.abc import Iterator

from ..config import DataConfig
from ..store import Corpus
from ..tokenizer import Tokenizer
from ..windows import Windows
from .task import TEXT, Batch, Fields, Rows, Setting
from .written import no_tokens


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Each token follows from those before it."""

    objective = "tokens"
    architectures = ("decoder",)
    scores = ()
    fields = TEXT

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """Any will do."""

    def texts(self, fields: Fields) -> Iterator[str]:
        """The document."""
        yield fields["text"]

    def padding(self, setting: Setting) -> Batch:
        """A row without text."""
        return no_tokens(setting)

    def open(self, corpus: Corpus, split: str, config: DataConfig, documents: range, *, evaluating: bool) -> Rows:
        """Windows, see there."""
        return Windows(corpus, split, config, documents=documents, with_bytes=evaluating)
