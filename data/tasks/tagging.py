"""A label for each word, such as the entities of a text."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ..config import DataConfig
from ..examples import open_examples
from ..offsets import trimmed
from ..tokenizer import Tokenizer
from .frame import blank, check_frame, frame
from .task import Batch, ExamplesOfRows, Fields, Setting

_FIELDS = {"words": (list,), "tags": (list,)}
_METRICS = ("span_f1", "accuracy")
_OUTSIDE = "O"  # what a word counts as that has no token in the row


@dataclasses.dataclass(frozen=True)
class Tagging:
    """Each word's label is that of its first token; its other tokens weigh nothing.

    The words are joined by spaces. What does not fit into a row is cut, and in an evaluation those words count as
    "O", as do words that the tokenizer writes nothing for.

    Attributes:
        labels: "O/B-PER/I-PER" gives the labels in their order; "" takes those of the training examples, sorted.
        metrics: "span_f1" of labels that say where spans begin and go on, such as entities; "accuracy" of any, such as
            parts of speech: the share of all words of all examples whose label is right.
    """

    labels: str = ""
    metrics: str = _METRICS[0]

    objective = "tags"
    architectures = ("encoder", "decoder")
    fields = _FIELDS
    augmented = ()
    packs = True
    open = open_examples

    @property
    def scores(self) -> tuple[str, ...]:
        """The metric."""
        return (self.metrics,)

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is room, and the metric is known."""
        check_frame(config, 3)
        if self.metrics not in _METRICS:
            raise ValueError(f"config.data.task={config.task!r}: metrics must be one of {', '.join(_METRICS)}")

    def texts(self, fields: Fields) -> Iterator[str]:
        """The words with spaces between."""
        yield " ".join(map(str, fields["words"]))

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """Of each word."""
        yield from map(str, fields["tags"])

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """In an evaluation a label that was never seen weighs nothing."""
        tags = [str(tag) for tag in fields["tags"]]
        if len(tags) != len(fields["words"]):
            raise ValueError(f"it has {len(fields['words'])} words and {len(tags)} tags")
        unknown = [tag for tag in tags if tag not in setting.labels]
        if unknown and not setting.evaluating:
            raise ValueError(f"its tag {unknown[0]!r} is none of {', '.join(setting.labels)}")
        piece, places = self._places(fields["words"], setting)
        if not any(place >= 0 for place in places):
            raise ValueError("it has no word")
        targets, weights = np.zeros_like(piece["inputs"]), np.zeros(len(piece["inputs"]), np.float32)
        for tag, place in zip(tags, places, strict=True):
            if place >= 0 and tag in setting.labels:
                targets[place], weights[place] = setting.labels.index(tag), 1
        return [piece | {"targets": targets, "weights": weights}]

    def _places(self, words: Sequence[Any], setting: Setting) -> tuple[Batch, list[int]]:
        """The framed words, and where each one's first token is in the row; -1 is nowhere."""
        text = " ".join(map(str, words))
        ids, spans = setting.tokenizer.encode_with_offsets(text)
        spans = trimmed(text, spans)[: setting.config.seq_len - 2]
        places, start, token = [], 0, 0
        for word in map(str, words):
            end = start + len(word)
            while token < len(spans) and (spans[token, 1] <= start or spans[token, 0] == spans[token, 1]):
                token += 1
            found = token < len(spans) and spans[token, 0] < end
            places.append(token + 1 if found else -1)  # the frame's first token is before them
            token += found
            start = end + 1
        return frame(setting.tokenizer, setting.config.seq_len, ids), places

    def padding(self, setting: Setting) -> Batch:
        """A row without words."""
        return blank(setting, ints=("token_types", "targets"), floats=("weights",))

    def score(
        self,
        examples: ExamplesOfRows,
        predictions: Mapping[str, np.ndarray],
        setting: Setting,
    ) -> tuple[list[Any], list[Any]]:
        """The labels of each example's words; of accuracy, those of all words in one list."""
        found, names = [], dict(enumerate(setting.labels))
        for fields, (row,) in examples:
            tags, (_, places) = predictions["tags"][row], self._places(fields["words"], setting)
            found.append([names.get(int(tags[place]), _OUTSIDE) if place >= 0 else _OUTSIDE for place in places])
        right = [[*self.labels_of(fields)] for fields, _ in examples]
        return (found, right) if self.metrics == "span_f1" else ([*chain(*found)], [*chain(*right)])
