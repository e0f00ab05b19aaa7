"""Batches that grow: how many rows each step has, and which."""

import dataclasses
from bisect import bisect_right

from .options import choose


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps whose batches have the same size.

    Attributes:
        step: the first one.
        row: the place of its first row in the order of all rows.
        size: rows of a batch.
    """

    step: int
    row: int
    size: int


@dataclasses.dataclass(frozen=True)
class Ramp:
    """The sizes of all batches, as a function of the step.

    Attributes:
        phases: in their order; the last one does not end.
    """

    phases: tuple[Phase, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those that batches have, each once."""
        return tuple(phase.size for phase in self.phases)

    def size(self, step: int) -> int:
        """Rows of the batch of a step."""
        return self._phase(step).size

    def rows_before(self, step: int) -> int:
        """Rows of all steps before this one, which is the place of its first."""
        phase = self._phase(step)
        return phase.row + (step - phase.step) * phase.size

    def _phase(self, step: int) -> Phase:
        return self.phases[bisect_right(self.phases, step, key=lambda phase: phase.step) - 1]


def _doubling(*, start: int, steps: int) -> tuple[int, int]:
    return start, steps


def make_ramp(batch_ramp: str, batch_size: int) -> Ramp:
    """The ramp of a config.

    Args:
        batch_ramp: "", or "doubling,start=4,steps=300": rows of the first batch, and steps until all rows are there,
            in equal parts for each size.
        batch_size: rows of a batch in the end.

    Raises:
        ValueError: start does not become `batch_size` by doubling, or there are too few steps.
    """
    if not batch_ramp:
        return Ramp((Phase(0, 0, batch_size),))
    start, steps = choose("config.data.batch_ramp", batch_ramp, {"doubling": _doubling}).make()
    doublings = range(1, batch_size.bit_length())
    legal = [batch_size >> i for i in doublings if batch_size % (1 << i) == 0]
    if start not in legal:
        use = f"one of {legal}" if legal else "an even config.data.batch_size, or config.data.batch_ramp=''"
        raise ValueError(
            f"config.data.batch_ramp={batch_ramp!r}: start={start} does not become config.data.batch_size={batch_size} "
            f"by doubling; use {use}"
        )
    num_sizes = (batch_size // start).bit_length() - 1
    if steps < num_sizes:
        raise ValueError(
            f"config.data.batch_ramp={batch_ramp!r}: steps={steps} are too few for {num_sizes} sizes before "
            f"config.data.batch_size={batch_size}; use at least {num_sizes}"
        )
    phases, row = [], 0
    for i in range(num_sizes + 1):
        first, end = steps * i // num_sizes, steps * (i + 1) // num_sizes
        phases.append(Phase(first, row, start << i))
        row += (end - first) * (start << i)
    return Ramp(tuple(phases))
