"""Span corruption: an encoder reads a text with gaps, a decoder writes what was in them.

Letters: T length, S encoder length, L tokens of text.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..config import DataConfig
from ..store import Corpus
from ..tokenizer import Tokenizer
from ..windows import Windows
from .special import check_sentinels, sentinels
from .task import TEXT, Batch, Fields, Rows, Setting
from .written import no_source_and_target


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Random spans become one sentinel each (Raffel et al. 2020, arXiv:1910.10683, 3.1.4 and 3.3.4).

        encoder: a b <0> f g <1> end        decoder writes: <0> c d e <1> h end

    The encoder's rows have config.data.seq_len tokens, all of them filled: they are windows of as many tokens of text
    as become so many. The decoder's rows have as many as that takes: 114 for 512, with the defaults.

    Attributes:
        rate: share of the tokens that are cut out.
        mean_length: of a span.
    """

    rate: float = 0.15
    mean_length: float = 3.0

    start = "pad"  # of the decoder, as of `Seq2Seq`
    objective = "tokens"
    architectures = ("encoder_decoder",)
    scores = ()
    fields = TEXT

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There are enough sentinels."""
        if not 0 < self.rate < 1 or self.mean_length < 1:
            raise ValueError(
                f"config.data.task={config.task!r}: rate must be between 0 and 1, and mean_length at least 1"
            )
        if config.seq_len < 4:
            raise ValueError(f"config.data.seq_len={config.seq_len} is too short for gaps in a text; use at least 4")
        check_sentinels(config, tokenizer, self.counts(self.window(config.seq_len))[1])

    def texts(self, fields: Fields) -> Iterator[str]:
        """The document."""
        yield fields["text"]

    def counts(self, length: int) -> tuple[int, int]:
        """How many of L tokens are cut out, and in how many spans; both 0 for a single token."""
        noise = min(max(1, round(length * self.rate)), length - 1)
        return max(0, noise), min(max(1, round(noise / self.mean_length)), noise, length - noise) if noise > 0 else 0

    def window(self, encoder_length: int) -> int:
        """The L tokens of text that fill an encoder's row. One more is at most one more there, so none is left over."""
        length = 2
        while _encoder_length(length + 1, *self.counts(length + 1)) <= encoder_length:
            length += 1
        return length

    def lengths(self, encoder_length: int) -> tuple[int, int]:
        """Tokens of a row for the encoder, S, and for the decoder, T."""
        return encoder_length, sum(self.counts(self.window(encoder_length))) + 1

    def padding(self, setting: Setting) -> Batch:
        """A row without text, (S,) and (T,)."""
        return no_source_and_target(setting, *self.lengths(setting.config.seq_len))

    def open(self, corpus: Corpus, split: str, config: DataConfig, documents: range, *, evaluating: bool) -> Rows:
        """Windows with gaps; those of an evaluation are always the same."""
        self.check(config, corpus.tokenizer)
        length = self.window(config.seq_len)
        windows = Windows(corpus, split, config, documents=documents, length=length, with_targets=False)
        return Corrupted(windows, self, corpus.tokenizer, *self.lengths(config.seq_len))


def _encoder_length(length: int, noise: int, spans: int) -> int:
    return length - noise + spans + 1


class Corrupted:
    """Rows of a text with gaps, (S,) for the encoder and (T,) for the decoder, which begins with pad_id.

    Documents stay apart: each token, in the text or in a gap, has the segment of its document, in the encoder and in
    the decoder, which begins anew for each. A sentinel has that of the first token of its span.

    Args:
        windows: of text.
        task: says how much is cut out.
        tokenizer: has the sentinels.
        encoder_length: S.
        length: T.
    """

    def __init__(self, windows: Rows, task: SpanCorruption, tokenizer: Tokenizer, encoder_length: int, length: int):
        self._windows, self._task, self._tokenizer = windows, task, tokenizer
        self._encoder_length, self._length = encoder_length, length
        self._sentinels = sentinels(tokenizer, length)

    def __len__(self) -> int:
        return len(self._windows)

    def get(self, index: int, rng: np.random.Generator) -> Batch:
        """Row `index`; `rng` decides where the gaps are."""
        window = self._windows.get(index, rng)
        length = int((window["segment_ids"] > 0).sum())
        ids, segments = (window[name][:length] for name in ("inputs", "segment_ids"))
        return self._row(ids, segments, random_spans(length, *self._task.counts(length), rng))

    def _row(self, ids: np.ndarray, segments: np.ndarray, is_noise: np.ndarray) -> Batch:
        opens = is_noise & ~np.concatenate([[False], is_noise[:-1]])
        marks, (places,) = self._sentinels[: opens.sum()], np.nonzero(opens[is_noise])
        text = ids.copy()
        text[opens] = marks
        kept = opens | ~is_noise
        encoder = self._ended(text[kept], segments[kept], segments[-1:])
        gaps, of_gaps = np.insert(ids[is_noise], places, marks), np.insert(segments[is_noise], places, segments[opens])
        targets = self._ended(gaps, of_gaps, segments[-1:])
        row = self._side(*encoder, self._encoder_length, "encoder_") | self._side(*targets, self._length, "")
        return row | self._decoder(row)

    def _ended(self, ids: np.ndarray, segments: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.append(ids, self._tokenizer.eos_id).astype(np.int32), np.append(segments, last).astype(np.int32)

    def _side(self, ids: np.ndarray, segments: np.ndarray, length: int, side: str) -> Batch:
        places = np.arange(len(ids), dtype=np.int32)
        begins = np.searchsorted(segments, segments)
        short = (0, length - len(ids))
        return {
            f"{side}inputs": np.pad(ids, short, constant_values=self._tokenizer.pad_id),
            f"{side}segment_ids": np.pad(segments, short),
            f"{side}positions": np.pad((places - begins).astype(np.int32), short),
        }

    def _decoder(self, row: Batch) -> Batch:
        """What the decoder is to write, and, as its inputs, the same one place later in each document."""
        targets, segments = row["inputs"], row["segment_ids"]
        before = np.concatenate([[self._tokenizer.pad_id], targets[:-1]])
        inputs = np.where(row["positions"] == 0, self._tokenizer.pad_id, before).astype(np.int32)
        return {"inputs": inputs, "targets": targets, "weights": (segments > 0).astype(np.float32)}

    def padding(self) -> Batch:
        """A row without text."""
        none = np.zeros(0, np.int32)
        row = self._side(none, none, self._encoder_length, "encoder_") | self._side(none, none, self._length, "")
        return row | self._decoder(row)


def random_spans(length: int, noise: int, spans: int, rng: np.random.Generator) -> np.ndarray:
    """Which tokens are cut out, (L,): text and gaps by turns, text first, all ways to divide either as likely."""
    if not spans:
        return np.zeros(length, bool)
    lengths = np.stack([_divide(length - noise, spans, rng), _divide(noise, spans, rng)], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _divide(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """The lengths of parts of at least 1."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
