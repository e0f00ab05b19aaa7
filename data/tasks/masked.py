"""Masked language modelling: hidden tokens are found again.

Letters: T length.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..config import DataConfig
from ..store import Corpus
from ..tokenizer import Tokenizer
from ..windows import Windows
from ..words import Words
from .frame import blank
from .next_sentence import Pairs, no_pair
from .special import check_mask, ordinary_ids, special_ids
from .task import TEXT, Batch, Fields, Rows, Setting
from .written import no_tokens


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Hides tokens from an encoder, by the way of BERT (Devlin et al. 2019, arXiv:1810.04805, 3.1).

    Attributes:
        rate: the probability with which a token is chosen; special ids never are. Of the chosen ones 80% become the
            mask, 10% any ordinary id, and 10% stay; all of them are to be found.
        whole_words: the tokens of a word are chosen together.
        next_sentence: rows are pairs of texts, of which it is to be said whether the second follows the first.
    """

    rate: float = 0.15
    whole_words: bool = False
    next_sentence: bool = False

    architectures = ("encoder",)
    scores = ()
    fields = TEXT

    @property
    def objective(self) -> str:
        """That of tokens, alone or beside that of pairs."""
        return "tokens_and_pairs" if self.next_sentence else "tokens"

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is a mask."""
        if not 0 < self.rate < 1:
            raise ValueError(f"config.data.task={config.task!r}: rate must be between 0 and 1")
        if self.next_sentence and config.seq_len < 5:
            raise ValueError(f"config.data.seq_len={config.seq_len} is too short for pairs of texts; use at least 5")
        check_mask(config, tokenizer)

    def texts(self, fields: Fields) -> Iterator[str]:
        """The document."""
        yield fields["text"]

    def padding(self, setting: Setting) -> Batch:
        """A row without text, or without two."""
        pair = blank(setting, ints=("token_types",)) | no_pair() if self.next_sentence else {}
        return no_tokens(setting) | pair

    def open(self, corpus: Corpus, split: str, config: DataConfig, documents: range, *, evaluating: bool) -> Rows:
        """Windows, or pairs, with hidden tokens; those of an evaluation are always the same."""
        self.check(config, corpus.tokenizer)
        if not self.next_sentence:
            rows = Windows(corpus, split, config, documents=documents, with_targets=False)
            return Masked(rows, self, corpus.tokenizer)
        weight = self.rate * (config.seq_len - 3)
        return Masked(Pairs(corpus, split, config, documents, weight=weight), self, corpus.tokenizer)


class Masked:
    """Rows with hidden tokens: "inputs" has what hides them, "targets" (T,) what was there, "weights" (T,) where.

    Args:
        rows: with "inputs" and "segment_ids".
        task: says how.
        tokenizer: of the inputs.
    """

    def __init__(self, rows: Rows, task: MaskedLM, tokenizer: Tokenizer):
        self._rows, self._task = rows, task
        self._special = np.isin(np.arange(tokenizer.vocab_size), special_ids(tokenizer))
        assert tokenizer.mask_id is not None
        self._ordinary, self._mask_id = ordinary_ids(tokenizer), tokenizer.mask_id
        self._words = Words(tokenizer) if task.whole_words else None

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, index: int, rng: np.random.Generator) -> Batch:
        """Row `index`; `rng` decides which tokens are hidden, and how."""
        row = self._rows.get(index, rng)
        ids = row["inputs"]
        units = np.arange(len(ids)) if self._words is None else self._words.numbers(ids, row["segment_ids"])
        chosen = (rng.random(len(ids)) < self._task.rate)[units]
        chosen &= (row["segment_ids"] > 0) & ~self._special[ids]
        fate, others = rng.random(len(ids)), rng.choice(self._ordinary, len(ids))
        hidden = np.where(fate < 0.8, self._mask_id, np.where(fate < 0.9, others, ids))
        inputs = np.where(chosen, hidden, ids).astype(np.int32)
        return row | {"inputs": inputs, "targets": ids, "weights": chosen.astype(np.float32)}

    def padding(self) -> Batch:
        """A row without tokens."""
        row = self._rows.padding()
        return row | {"targets": row["inputs"], "weights": np.zeros(len(row["inputs"]), np.float32)}
