"""Answers that are a part of a text: extractive question answering.

Letters: T length.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..config import DataConfig
from ..examples import open_examples
from ..offsets import trimmed
from ..tokenizer import Tokenizer
from .frame import blank, check_frame, frame
from .task import Batch, ExamplesOfRows, Fields, Setting

_FIELDS = {"question": (str,), "context": (str,), "answers": (list,), "starts": (list,)}


class _Window(NamedTuple):
    """A row of an example: first question separator, a part of the context, separator."""

    piece: Batch
    spans: np.ndarray  # (T, 2) characters of the context that each token stands for; empty elsewhere
    tokens: range  # of the context, by number
    offset: int  # the row's place of the first of them


@dataclasses.dataclass(frozen=True)
class Questions:
    """Where the answer to a question starts and ends in its context (Devlin et al. 2019, sections 4.2 and 4.3).

    A long context becomes several rows, whose parts of it overlap, so that an answer no longer than the overlap is
    whole in one of them. In a row without the answer, both start and end are the row's first token. Of several gold
    answers the first is learned. A question takes half a row at most.

    Attributes:
        stride: tokens of the context that a row shares with the next; half of a row's at most.
        longest: tokens that a predicted answer may have.
        best: how many starts and ends of a row are looked at.
        no_answer: whether a question may be found to have no answer.
        threshold: how much better than an answer none must be.
        find: examples have no "starts": an answer is where it is first in the context.
        all_windows: learn also those windows of an answered question that have not its answer. Without them most rows
            have an answer, which is learned sooner; what has none, unanswered questions still show.
    """

    stride: int = 128
    longest: int = 30
    best: int = 20
    no_answer: bool = True
    threshold: float = 0.0
    find: bool = False
    all_windows: bool = True

    objective = "spans"
    architectures = ("encoder",)
    scores = ("squad",)
    augmented = ()
    packs = False
    open = open_examples

    @property
    def fields(self) -> Mapping[str, tuple[type, ...]]:
        """A question, a context, and the answers with their places."""
        return {name: types for name, types in _FIELDS.items() if name != "starts" or not self.find}

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is room, and the numbers are in range."""
        check_frame(config, 8)
        for name, least in (("stride", 0), ("longest", 1), ("best", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"config.data.task={config.task!r}: {name} must be at least {least}")

    def texts(self, fields: Fields) -> Iterator[str]:
        """Question and context."""
        yield fields["question"]
        yield fields["context"]

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """None."""
        yield from ()

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """A piece for each window of the context."""
        if not all(isinstance(answer, str) for answer in fields["answers"]):
            raise ValueError(f"its answers {fields['answers']} are not all texts")
        if self.find:
            fields = {**fields, "starts": [fields["context"].find(answer) for answer in fields["answers"]]}
        answer, windows = _first_answer(fields), self._windows(fields, setting)
        places = [(0, 0)] * len(windows)
        if answer and (tokens := _tokens_of(answer, fields, setting)):
            places = [_place(tokens, window) for window in windows]
        if answer and not any(map(any, places)) and not setting.evaluating:
            raise ValueError("its answer is in no window: it is longer than their overlap, or without a token")
        return [
            window.piece
            | {"starts": np.array(start, np.int32), "ends": np.array(end, np.int32)}
            | {"weights": np.array(1, np.float32)}
            for window, (start, end) in zip(windows, places, strict=True)
            if end or not answer or self.all_windows or setting.evaluating
        ]

    def _windows(self, fields: Fields, setting: Setting) -> list[_Window]:
        length = setting.config.seq_len
        question = setting.tokenizer.encode(fields["question"])[: (length - 3) // 2]
        ids, spans = _context(fields, setting)
        room = length - 3 - len(question)
        step = room - min(self.stride, room // 2)
        parts = [range(first, min(first + room, len(ids))) for first in range(0, max(1, len(ids) - room + step), step)]
        return [_window(setting, question, ids, spans, part) for part in parts]

    def padding(self, setting: Setting) -> Batch:
        """A row without a question; its first token may start an answer, as the model must choose one."""
        row = blank(setting, ints=("token_types", "candidates"))
        row["candidates"][0] = 1
        scalars = dict.fromkeys(("starts", "ends"), np.array(0, np.int32)) | {"weights": np.array(0, np.float32)}
        return row | scalars

    def score(
        self,
        examples: ExamplesOfRows,
        predictions: Mapping[str, np.ndarray],
        setting: Setting,
    ) -> tuple[list[Any], list[Any]]:
        """The best answer of each example, "" for none, and its gold answers."""
        answers = [
            self._answer(fields, [(predictions["starts"][row], predictions["ends"][row]) for row in rows], setting)
            for fields, rows in examples
        ]
        return answers, [list(fields["answers"]) for fields, _ in examples]

    def _answer(self, fields: Fields, logits: Sequence[tuple[np.ndarray, np.ndarray]], setting: Setting) -> str:
        """The part of the context with the highest sum of logits over all windows."""
        best, answer, none = -np.inf, "", np.inf
        for window, (starts, ends) in zip(self._windows(fields, setting), logits, strict=True):
            none = min(none, float(starts[0] + ends[0]))
            score, start, end = self._best_span(window, np.asarray(starts), np.asarray(ends))
            if score > best:
                best, answer = score, fields["context"][window.spans[start, 0] : window.spans[end, 1]]
        return "" if self.no_answer and none - best > self.threshold else answer

    def _best_span(self, window: _Window, starts: np.ndarray, ends: np.ndarray) -> tuple[float, int, int]:
        (tokens,) = np.nonzero(window.spans[:, 1] > window.spans[:, 0])
        first, last = (tokens[np.argsort(-logits[tokens], kind="stable")[: self.best]] for logits in (starts, ends))
        pairs = [(a, b) for a in first for b in last if a <= b < a + self.longest]
        sums = [(float(starts[a] + ends[b]), int(a), int(b)) for a, b in pairs]
        return max(sums, key=lambda one: one[0], default=(-np.inf, 0, 0))


def _context(fields: Fields, setting: Setting) -> tuple[list[int], np.ndarray]:
    """The context's ids, and the characters that each stands for."""
    ids, spans = setting.tokenizer.encode_with_offsets(fields["context"])
    return ids, trimmed(fields["context"], spans)


def _window(setting: Setting, question: list[int], ids: list[int], of_ids: np.ndarray, tokens: range) -> _Window:
    part = slice(tokens.start, tokens.stop)
    piece = frame(setting.tokenizer, setting.config.seq_len, question, ids[part])
    spans, first = np.zeros((len(piece["inputs"]), 2), np.int64), len(question) + 2
    spans[first : first + len(tokens)] = of_ids[part]
    candidates = (spans[:, 1] > spans[:, 0]).astype(np.int32)
    candidates[0] = 1  # there is no answer
    return _Window(piece | {"candidates": candidates}, spans, tokens, first)


def _first_answer(fields: Fields) -> tuple[int, int] | None:
    """Characters [start, end) of the answer that is learned.

    Raises:
        ValueError: an answer is not where it is said to be.
    """
    if len(fields["answers"]) != len(fields["starts"]):
        raise ValueError(f"it has {len(fields['answers'])} answers and {len(fields['starts'])} starts")
    for answer, start in zip(fields["answers"], fields["starts"], strict=True):
        if not isinstance(start, int):
            raise ValueError(f"its answer {answer!r} starts at {start!r}, which is no whole number")
        if not answer.strip() or start < 0 or not fields["context"].startswith(answer, start):
            raise ValueError(f"its answer {answer!r} is not at character {start} of its context")
    if not fields["answers"]:
        return None
    answer, start = fields["answers"][0], int(fields["starts"][0])
    start += len(answer) - len(answer.lstrip())
    return start, start + len(answer.strip())


def _tokens_of(answer: tuple[int, int], fields: Fields, setting: Setting) -> tuple[int, int] | None:
    """The numbers of the first and the last token of the context that hold a part of the answer."""
    _, spans = _context(fields, setting)
    begins, ends = spans.T
    (inside,) = np.nonzero((ends > answer[0]) & (begins < answer[1]) & (ends > begins))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _place(tokens: tuple[int, int], window: _Window) -> tuple[int, int]:
    """Where they are in a row; 0, 0 if it has not all of them."""
    first, last = (token - window.tokens.start + window.offset for token in tokens)
    return (first, last) if tokens[0] in window.tokens and tokens[1] in window.tokens else (0, 0)
