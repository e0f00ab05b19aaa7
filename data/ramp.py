"""Sizes that double as a run goes on: of batches, how many rows each step has and which; and of windows."""

import dataclasses
from bisect import bisect_right

from .options import choose


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps of the same size.

    Attributes:
        step: the first one.
        row: the place of its first row in the order of all rows, where the sizes are those of batches.
        size: rows of a batch, or positions of a window.
    """

    step: int
    row: int
    size: int


@dataclasses.dataclass(frozen=True)
class Ramp:
    """The sizes of all steps, as a function of the step.

    Attributes:
        phases: in their order; the last one does not end.
    """

    phases: tuple[Phase, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those that there are, each once."""
        return tuple(phase.size for phase in self.phases)

    def size(self, step: int) -> int:
        """That of a step: rows of its batch, or positions of its window."""
        return self._phase(step).size

    def rows_before(self, step: int) -> int:
        """Rows of all steps before this one, which is the place of its first."""
        phase = self._phase(step)
        return phase.row + (step - phase.step) * phase.size

    def _phase(self, step: int) -> Phase:
        return self.phases[bisect_right(self.phases, step, key=lambda phase: phase.step) - 1]


def _doubling(*, start: int, steps: int) -> tuple[int, int]:
    return start, steps


def make_ramp(
    text: str, whole: int, *, key: str = "config.data.batch_ramp", of: str = "config.data.batch_size"
) -> Ramp:
    """The ramp of a config.

    Args:
        text: "", or "doubling,start=4,steps=300": the first size, and steps until the whole is there, in equal parts
            for each size.
        whole: the size in the end.
        key: the config key of the text, for errors.
        of: that of the whole.

    Raises:
        ValueError: start does not become the whole by doubling, or there are too few steps.
    """
    if not text:
        return Ramp((Phase(0, 0, whole),))
    start, steps = choose(key, text, {"doubling": _doubling}).make()
    legal = [whole >> i for i in range(1, whole.bit_length()) if whole % (1 << i) == 0]
    if start not in legal:
        use = f"one of {legal}" if legal else f"an even {of}, or {key}=''"
        raise ValueError(f"{key}={text!r}: start={start} does not become {of}={whole} by doubling; use {use}")
    num_sizes = (whole // start).bit_length() - 1
    if steps < num_sizes:
        raise ValueError(
            f"{key}={text!r}: steps={steps} are too few for {num_sizes} sizes before {of}={whole}; use at least "
            f"{num_sizes}"
        )
    phases, row = [], 0
    for i in range(num_sizes + 1):
        first, end = steps * i // num_sizes, steps * (i + 1) // num_sizes
        phases.append(Phase(first, row, start << i))
        row += (end - first) * (start << i)
    return Ramp(tuple(phases))
