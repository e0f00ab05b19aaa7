"""Rows of labelled examples: encoded when they are read, padded or packed.

Letters: T length, S encoder length.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from .augment import make_augmentation
from .config import DataConfig
from .packing import pack
from .store import Corpus
from .supervised import ENCODER, EXAMPLE, LENGTH, PIECE, read_lengths, setting_of
from .tasks.task import Batch, Choosing, ExampleTask, Fields, Prompt, Setting, Writing

_SIDES = ("", "encoder_")
_KEPT_BYTES = 256 << 20  # of pieces that are kept in memory, so that they are encoded once and not each epoch


class Examples:
    """Random access to the rows that labelled examples make.

    A row has one piece of an example, or several that `pack` put together; each has a number of its own in
    "segment_ids" and positions from 0. Each piece is in one row. An evaluation packs nothing and augments nothing.

    Args:
        task: what the examples are for.
        corpus: where they lie.
        split: "train" or "valid".
        config: the shape of the rows, packing, and augmentation.
        documents: a range of examples.
        evaluating: see above.

    Raises:
        ValueError: there are none.
    """

    def __init__(
        self, task: ExampleTask, corpus: Corpus, split: str, config: DataConfig, documents: range, *, evaluating: bool
    ):
        self._task, self._records = task, corpus.records(split)
        self._setting = setting_of(corpus, config, evaluating=evaluating)
        self._padding = task.padding(self._setting)
        ways = () if evaluating else config.augment
        self._kept: dict[int, Batch] = {}
        self._room = _KEPT_BYTES
        self._augment = make_augmentation(ways, task.augmented, task=config.task) if ways else None
        lengths = read_lengths(corpus, split)
        self._pieces = lengths[(lengths[:, EXAMPLE] >= documents.start) & (lengths[:, EXAMPLE] < documents.stop)]
        if not len(self._pieces):
            raise ValueError(f"{split} in {corpus.directory} has no example for config.data.task={config.task!r}")
        self._shared = task.packs and config.packing and not evaluating
        if self._shared:
            sizes = [len(self._padding[f"{side}inputs"]) for side in _SIDES if f"{side}inputs" in self._padding]
            self._rows = pack(self._pieces[:, [LENGTH, ENCODER][: len(sizes)]], sizes)
        else:
            self._rows = [[piece] for piece in range(len(self._pieces))]

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, index: int, rng: np.random.Generator) -> Batch:
        """Row `index`; `rng` decides how its examples are augmented."""
        return _join(self._padding, [self._piece(piece, rng) for piece in self._rows[index]])

    def _piece(self, number: int, rng: np.random.Generator) -> Batch:
        if number in self._kept:
            return self._kept[number]
        which = self._pieces[number]
        fields = self._records[int(which[EXAMPLE])]
        if self._augment is not None:
            changed = self._encode(self._augment(fields, rng), which)
            if changed is not None:
                return changed
        unchanged = self._encode(fields, which)
        assert unchanged is not None, "an example is longer than it was when it was prepared"
        if self._augment is None and self._room > 0:
            self._kept[number] = unchanged
            self._room -= sum(array.nbytes + 200 for array in unchanged.values())  # an array itself takes some, too
        return unchanged

    def _encode(self, fields: Fields, which: np.ndarray) -> Batch | None:
        """The piece of an example; None where it is too long for the place that it has, or no longer an example."""
        try:
            piece = self._task.encode(fields, self._setting)[which[PIECE]]
        except ValueError:
            return None
        if not self._shared:  # with others it has no more room than it had when the row was packed
            return piece
        fits = len(piece["inputs"]) <= which[LENGTH] and len(piece.get("encoder_inputs", ())) <= which[ENCODER]
        return piece if fits else None

    def padding(self) -> Batch:
        """A row of padding."""
        return dict(self._padding)

    @property
    def rows_of_first(self) -> int:
        """How many rows of an evaluation the first example has."""
        return int((self._pieces[:, EXAMPLE] == self._pieces[0, EXAMPLE]).sum())

    def fields(self, index: int) -> dict[str, Any]:
        """The example of a row of an evaluation, and its "name"."""
        return self._records[int(self._pieces[self._rows[index][0], EXAMPLE])]

    def prompt(self, index: int) -> Prompt:
        """The example of a row of an evaluation, for a model that writes.

        Raises:
            ValueError: its task is not to write.
        """
        if not hasattr(self._task, "prompt"):
            raise ValueError(f"config.data.task={self._setting.config.task!r} chooses an answer and writes none")
        return cast(Writing, self._task).prompt(self.fields(index), self._setting)

    def score(self, predictions: dict[str, np.ndarray]) -> tuple[list[Any], list[Any]]:
        """What a model says of an evaluation's examples and what is right, see `Scored` and `Choosing`.

        Args:
            predictions: arrays whose first dim is that of the first rows, or of all; an example of which a row is
                missing is left out.

        Raises:
            ValueError: its task is judged by what a model writes.
        """
        if not hasattr(self._task, "score"):
            raise ValueError(f"config.data.task={self._setting.config.task!r} writes its answers, see `prompt`")
        rows: dict[int, list[int]] = {}
        for row, (piece,) in enumerate(self._rows):
            rows.setdefault(int(self._pieces[piece, EXAMPLE]), []).append(row)
        number = min(map(len, predictions.values()))
        examples = [(self._records[example], of_it) for example, of_it in rows.items() if of_it[-1] < number]
        return cast(Choosing, self._task).score(examples, predictions, self._setting)

    @property
    def setting(self) -> Setting:
        """What the examples are encoded for."""
        return self._setting


def open_examples(
    task: ExampleTask, corpus: Corpus, split: str, config: DataConfig, documents: range, *, evaluating: bool
) -> Examples:
    """`Task.open` of every task on labelled examples."""
    return Examples(task, corpus, split, config, documents, evaluating=evaluating)


def _join(padding: Batch, pieces: Sequence[Batch]) -> Batch:
    """Writes pieces into a row, one after the other; what is not by token, such as a class, is that of the only one."""
    row = {name: array.copy() for name, array in padding.items()}
    filled = dict.fromkeys(_SIDES, 0)
    for number, piece in enumerate(pieces, 1):
        places: dict[str, slice] = {}
        for side in _SIDES:
            if f"{side}inputs" in piece:
                length = len(piece[f"{side}inputs"])
                places[side] = slice(filled[side], filled[side] + length)
                row[f"{side}segment_ids"][places[side]] = number
                row[f"{side}positions"][places[side]] = np.arange(length)
                filled[side] += length
        for name, array in piece.items():
            if array.ndim and name != "labels":
                row[name][places[_SIDES[name.startswith("encoder_")]]] = array
            else:
                row[name] = np.asarray(array, row[name].dtype)
    return row
