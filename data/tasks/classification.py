"""Labels of whole texts, or of pairs of them: one of several classes, any of several, or a number."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from ..config import DataConfig
from ..examples import open_examples
from ..tokenizer import Tokenizer
from .frame import KEEP, blank, check_frame, frame
from .task import Batch, ExamplesOfRows, Fields, Setting

_BOTH = ("text", "text_b")
_TEXTS: dict[str, tuple[type, ...]] = {"text": (str,), "text_b": (str, NoneType)}


def texts_of(fields: Fields) -> list[str]:
    """The text of an example, or both of a pair."""
    return [fields[name] for name in _BOTH if fields.get(name) is not None]


def encode_texts(fields: Fields, setting: Setting, *, keep: str = KEEP[0]) -> Batch:
    """The text of an example, or both, framed; of one text that is too long, the part that `frame` is told to keep.

    Raises:
        ValueError: there is no text.
    """
    ids = [setting.tokenizer.encode(text) for text in texts_of(fields)]
    if not any(ids):
        raise ValueError("it has no text")
    return frame(setting.tokenizer, setting.config.seq_len, *ids, keep=keep)


@dataclasses.dataclass(frozen=True)
class Classification:
    """A class for each text, or for each pair of texts where examples have a "text_b".

    Attributes:
        labels: "negative/positive" gives the classes in their order; "" takes those of the training examples, numbers
            by size and words by the alphabet.
        metrics: of `train.SCORES`, such as "accuracy/f1/matthews"; binary_f1 takes the labels 0 and 1.
        class_weights: "balanced" weighs the examples of a class by all / (classes * its own), "1/2/0.5" as it says;
            "" weighs all alike. Evaluation does so anyway.
        keep: which part of a text that is too long: its "start", its "end", or half of "both".
    """

    labels: str = ""
    metrics: str = "accuracy/f1"
    class_weights: str = ""
    keep: str = KEEP[0]

    objective = "classes"
    architectures = ("encoder", "decoder")
    fields = _TEXTS | {"label": (str, int)}
    augmented = _BOTH
    packs = False
    open = open_examples

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics."""
        return tuple(self.metrics.split("/"))

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is room, and weights are numbers."""
        check_frame(config, 5)
        if self.keep not in KEEP:
            raise ValueError(f"config.data.task={config.task!r}: keep must be one of {', '.join(KEEP)}")
        given = self.class_weights.split("/")
        if self.class_weights not in ("", "balanced"):
            if not all(_is_number(weight) for weight in given):
                raise ValueError(
                    f"config.data.task={config.task!r}: class_weights must be 'balanced' or numbers such as 1/2/0.5"
                )
            if self.labels and len(given) != self.labels.count("/") + 1:
                raise ValueError(f"config.data.task={config.task!r} has not as many class_weights as labels")

    def texts(self, fields: Fields) -> Iterator[str]:
        """The texts."""
        yield from texts_of(fields)

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """The class."""
        yield str(fields["label"])

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """In an evaluation a class that was never seen weighs nothing."""
        label, known = str(fields["label"]), str(fields["label"]) in setting.labels
        if not known and not setting.evaluating:
            raise ValueError(f"its label {label!r} is none of {', '.join(setting.labels)}")
        number = setting.labels.index(label) if known else 0
        weight = float(known) if setting.evaluating else self._weights(setting)[number]
        piece = encode_texts(fields, setting, keep=self.keep)
        return [piece | {"labels": np.array(number, np.int32), "weights": np.array(weight, np.float32)}]

    def _weights(self, setting: Setting) -> Sequence[float]:
        counts = setting.counts
        if self.class_weights == "balanced":
            return [sum(counts) / (len(counts) * count) if count else 0.0 for count in counts]
        weights = [float(weight) for weight in self.class_weights.split("/") if weight] or [1.0] * len(setting.labels)
        if len(weights) != len(setting.labels):
            raise ValueError(f"there are {len(weights)} class_weights for the labels {', '.join(setting.labels)}")
        return weights

    def padding(self, setting: Setting) -> Batch:
        """A row without a class."""
        scalars = {"labels": np.array(0, np.int32), "weights": np.array(0, np.float32)}
        return blank(setting, ints=("token_types",)) | scalars

    def score(
        self, examples: ExamplesOfRows, predictions: Mapping[str, np.ndarray], setting: Setting
    ) -> tuple[list[Any], list[Any]]:
        """Names of the likeliest classes, and of the right ones; numbers if all of them are."""
        likeliest = np.argmax(np.asarray(predictions["classes"])[:, : len(setting.labels)], axis=1)
        found = [setting.labels[likeliest[row]] for _, (row,) in examples]
        right = [str(fields["label"]) for fields, _ in examples]
        of_numbers = all(name.removeprefix("-").isdecimal() for name in [*found, *right])
        return ([*map(int, found)], [*map(int, right)]) if of_numbers else (found, right)


@dataclasses.dataclass(frozen=True)
class Multilabel:
    """Any number of classes for each text or pair.

    Attributes:
        labels: as of `Classification`.
        metrics: as of `Classification`.
    """

    labels: str = ""
    metrics: str = "accuracy/f1"

    objective = "classes"
    architectures = ("encoder", "decoder")
    fields = _TEXTS | {"labels": (list,)}
    augmented = _BOTH
    packs = False
    open = open_examples

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics."""
        return tuple(self.metrics.split("/"))

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is room."""
        check_frame(config, 5)

    def texts(self, fields: Fields) -> Iterator[str]:
        """The texts."""
        yield from texts_of(fields)

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """The classes, each once."""
        yield from dict.fromkeys(map(str, fields["labels"]))

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """As of `Classification`; in an evaluation, classes that were never seen are left out of the loss."""
        unknown = [label for label in self.labels_of(fields) if label not in setting.labels]
        if unknown and not setting.evaluating:
            raise ValueError(f"its label {unknown[0]!r} is none of {', '.join(setting.labels)}")
        labels = np.array(self._row(fields, setting), np.float32)
        piece = encode_texts(fields, setting)
        return [piece | {"labels": labels, "weights": np.array(1, np.float32)}]

    def _row(self, fields: Fields, setting: Setting) -> list[int]:
        there = {*self.labels_of(fields)}
        return [int(label in there) for label in setting.labels]

    def padding(self, setting: Setting) -> Batch:
        """A row without a class."""
        more = {"labels": np.zeros(len(setting.labels), np.float32), "weights": np.array(0, np.float32)}
        return blank(setting, ints=("token_types",)) | more

    def score(
        self, examples: ExamplesOfRows, predictions: Mapping[str, np.ndarray], setting: Setting
    ) -> tuple[list[Any], list[Any]]:
        """For each example 0 or 1 for each class: those that are likelier than not, and the right ones."""
        likely = np.asarray(predictions["classes"])[:, : len(setting.labels)] > 0
        return (
            [likely[row].astype(int).tolist() for _, (row,) in examples],
            [self._row(fields, setting) for fields, _ in examples],
        )


@dataclasses.dataclass(frozen=True)
class Regression:
    """A number for each text or pair.

    Attributes:
        metrics: as of `Classification`.
    """

    metrics: str = "pearson/spearman"

    objective = "classes"
    architectures = ("encoder", "decoder")
    fields = _TEXTS | {"label": (float, int)}
    augmented = _BOTH
    packs = False
    open = open_examples

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics."""
        return tuple(self.metrics.split("/"))

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is room."""
        check_frame(config, 5)

    def texts(self, fields: Fields) -> Iterator[str]:
        """The texts."""
        yield from texts_of(fields)

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """None."""
        yield from ()

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """As of `Classification`."""
        if not np.isfinite(fields["label"]):
            raise ValueError(f"its label {fields['label']} is no finite number")
        piece = encode_texts(fields, setting)
        return [piece | {"labels": np.array(fields["label"], np.float32), "weights": np.array(1, np.float32)}]

    def padding(self, setting: Setting) -> Batch:
        """A row without a number."""
        scalars = {"labels": np.array(0, np.float32), "weights": np.array(0, np.float32)}
        return blank(setting, ints=("token_types",)) | scalars

    def score(
        self, examples: ExamplesOfRows, predictions: Mapping[str, np.ndarray], setting: Setting
    ) -> tuple[list[Any], list[Any]]:
        """Numbers."""
        numbers = np.asarray(predictions["classes"])[:, 0]
        return (
            [float(numbers[row]) for _, (row,) in examples],
            [float(fields["label"]) for fields, _ in examples],
        )


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False
