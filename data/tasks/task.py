"""What a task is: the way from documents or labelled examples to the arrays that an objective reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from ..config import DataConfig
    from ..store import Corpus
    from ..tokenizer import Tokenizer

Batch = dict[str, np.ndarray]
TEXT: Mapping[str, tuple[type, ...]] = {"text": (str,)}  # the fields of the tasks on text alone
Fields = Mapping[str, Any]  # a labelled example, by the names that its task asks for
ExamplesOfRows = Sequence[tuple[Fields, Sequence[int]]]  # examples, each with the numbers of the rows that it has


class Rows(Protocol):
    """Random access to the rows that batches are made of, some documents of a split.

    A row is a dict of arrays; the first dim of a batch is added when rows are stacked.
    """

    def __len__(self) -> int:
        """How many there are in an epoch."""
        ...

    def get(self, index: int, rng: np.random.Generator) -> Batch:
        """Row `index`; what it leaves to chance, such as masks, follows from `rng` alone."""
        ...

    def padding(self) -> Batch:
        """A row of padding alone, to fill the last batch of an evaluation: its weights are 0."""
        ...


class BatchedRows(Rows, Protocol):
    """Rows that leave nothing to chance and are faster to make many at once."""

    def get_batch(self, indices: Sequence[int]) -> Batch:
        """What stacking `get` of each would give."""
        ...


class Scored(Rows, Protocol):
    """Rows of an evaluation for which a model predicts something that is held against the examples."""

    def score(self, predictions: dict[str, np.ndarray]) -> tuple[list[Any], list[Any]]:
        """What was predicted and what is right, one of each for an example.

        Args:
            predictions: what the model says of the first n rows: arrays (n, ...).

        Returns:
            Predictions and references, as the functions of `train.scores` take them; examples that are not whole among
            the n rows are left out.
        """
        ...


class Task(Protocol):
    """A task with its options; `configs/base.py` lists them."""

    @property
    def objective(self) -> str:
        """What trains a model for it, a key of `train.OBJECTIVES`."""
        ...

    @property
    def architectures(self) -> tuple[str, ...]:
        """The kinds of config.model.architecture that can learn it."""
        ...

    @property
    def scores(self) -> tuple[str, ...]:
        """Which of `train.SCORES` tell how well it is done; () if only the loss does. Else its rows are `Scored`."""
        ...

    @property
    def fields(self) -> Mapping[str, tuple[type, ...]]:
        """What an example must have: names, and the types that each may be of; one that may be None may be missing.

        Tasks on text alone have {"text": (str,)}, and `prepare` stores their documents as one stream of tokens; of all
        others the examples themselves are stored, as JSON.
        """
        ...

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """Checks that the config, and the tokenizer where there is one already, suit the task.

        Raises:
            ValueError: they do not; it names the keys.
        """
        ...

    def texts(self, fields: Fields) -> Iterator[str]:
        """The texts of an example, which a tokenizer is trained on and filters look at."""
        ...

    def padding(self, setting: Setting) -> Batch:
        """A row without text, which also tells the names, shapes and types of all that training reads."""
        ...

    def open(self, corpus: Corpus, split: str, config: DataConfig, documents: range, *, evaluating: bool) -> Rows:
        """The rows that a range of a split's documents or examples makes.

        Args:
            corpus: where they lie.
            split: "train" or "valid".
            config: the shape of the rows.
            documents: a range of numbers of documents or examples.
            evaluating: adds what only evaluation needs, such as "target_bytes"; nothing is augmented then.

        Raises:
            ValueError: there is too little for one row.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Setting:
    """What examples are encoded for.

    Attributes:
        tokenizer: makes their ids.
        config: the shape of the rows.
        labels: the names of the classes, in the order of their numbers.
        counts: how many training examples (or words) have each.
        evaluating: in an evaluation every example weighs 1, and one with an unknown label is not left out.
    """

    tokenizer: Tokenizer
    config: DataConfig
    labels: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    evaluating: bool = False


class Prompt(NamedTuple):
    """An example as a question to a model that writes.

    Attributes:
        ids: what it reads: the encoder's input, or the beginning of the decoder's.
        reference: what it should write.
    """

    ids: list[int]
    reference: str


class ExampleTask(Task, Protocol):
    """A task on labelled examples, whose rows `data.examples.Examples` makes with the methods here.

    It is also one of the two below.
    """

    @property
    def packs(self) -> bool:
        """Whether a row may hold several examples, with segments of their own."""
        ...

    @property
    def augmented(self) -> tuple[str, ...]:
        """The fields that config.data.augment may change; none where labels or answers hang on their characters."""
        ...

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """The labels of an example, from which preparation makes the list of all."""
        ...

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """An example as arrays of its own length, without "segment_ids" and "positions"; mostly one dict of them.

        Raises:
            ValueError: it cannot be learned from; the message says why.
        """
        ...


class Choosing(ExampleTask, Protocol):
    """A task whose answers are chosen, and compared with the right ones."""

    def score(
        self, examples: ExamplesOfRows, predictions: Mapping[str, np.ndarray], setting: Setting
    ) -> tuple[list[Any], list[Any]]:
        """What a model says of examples and what is right, as the metrics take them.

        Args:
            examples: each with the rows that it has.
            predictions: arrays (rows, ...), by name: "classes" logits (C,), "tags" classes (T,), "starts" and "ends"
                logits (T,).
            setting: as the rows were made with.

        Returns:
            Predictions and references.
        """
        ...


class Writing(ExampleTask, Protocol):
    """A task whose answers are texts that a model writes."""

    @property
    def metrics(self) -> str:
        """Which of `train.SCORES` tell how well what is written is, with slashes between; "" writes nothing."""
        ...

    def ask(self, text: str) -> Fields:
        """What a user types, as an example without an answer."""
        ...

    def asked(self, fields: Fields) -> Iterator[str]:
        """The texts of an example without its answer, by which it is found out that another asks the same.

        Those of a task that chooses are all of `texts`.
        """
        ...

    def prompt(self, fields: Fields, setting: Setting) -> Prompt:
        """An example without its answer, and the answer."""
        ...
