"""What a plan chooses from: every legal mesh of a machine, with microbatches, remat policies and attentions.

What a check refuses is no candidate; the check is `preflight`'s. Of the choices that share a mesh only the fastest that
fits stays, or the smallest: a larger microbatch is never slower, so of those that fit the largest is taken.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model import REMAT_POLICIES, choose_attention, names_attention
from parallel import AXES, Link, Machine, abstract_mesh, links_of

from .compose import asked_of_attention, check_mesh, model_config
from .layout import Layout, layout_of
from .memory import Memory, estimate_memory
from .step_time import StepTime, estimate_time
from .workload import Workload

# Of the usable memory, what an estimate may fill. The rest is for its error, the program, and holes between arrays.
HEADROOM = 0.9
# A pipeline with more microbatches for each stage than this waits less than a thirtieth of its time.
MICROBATCHES_PER_STAGE = 16


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout, and what it is estimated to take.

    Attributes:
        layout: mesh, microbatch, remat and attention.
        memory: of a chip.
        time: of a step.
        fits: whether the memory, with `HEADROOM`, is there.
    """

    layout: Layout
    memory: Memory
    time: StepTime
    fits: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """What candidates are ranked by: fitting ones by time, half-way between the two bounds; others by memory."""
        seconds = (self.time.overlapped + self.time.serial) / 2
        return (not self.fits, seconds if self.fits else self.memory.total, self.memory.total, str(self.layout))


def factorizations(number: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a number as an ordered product."""
    if parts == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in factorizations(number // first, parts - 1):
                yield (first, *rest)


def divisors(number: int) -> list[int]:
    """From the largest."""
    return [n for n in range(number, 0, -1) if number % n == 0]


def attention_of_machine(config: Any, machine: Machine) -> str:
    """The attention that a config has on a machine: what it names, or what "auto" takes on that platform.

    One that keeps all probabilities is never better, so there is no more to choose from.

    Raises:
        ValueError: it cannot be had there.
    """
    capability = 8.0 if machine.chip.name.startswith("a100") else 9.0
    asked = asked_of_attention(config, model_config(config), machine.chip.platform, capability=capability)
    return choose_attention(config.model.attention, asked).kind


class Search:
    """Scores layouts of one config on one machine.

    Args:
        config: the whole config; a copy is changed from candidate to candidate for the checks.
        workload: of it.
        machine: what it is to run on.
    """

    def __init__(self, config: Any, workload: Workload, machine: Machine):
        self.config, self.workload, self.machine = config.copy_and_resolve_references(), workload, machine
        self.config.unlock()
        self.attention = attention_of_machine(config, machine)
        self.limit = machine.chip.usable_bytes * HEADROOM
        self.refused: list[str] = []

    def check(self, sizes: Mapping[str, int], rows: int, remat: str) -> None:
        """Checks a mesh as `preflight` does.

        Raises:
            ValueError: it is not legal.
        """
        self.config.train.microbatch_rows = rows
        self.config.model.remat = remat
        check_mesh(self.config, abstract_mesh(sizes), self.workload.model, self.workload.rules)  # pyright: ignore

    def legal(self, sizes: Mapping[str, int]) -> bool:
        """Whether a mesh is, for any microbatch."""
        m = self.workload.model
        if sizes["expert"] > 1 and not m.num_experts:
            return False  # it would be one more "fsdp" that divides no parameter
        in_a_ring = sizes["context"] > 1 and self.config.mesh.context_attention == "ring"
        if in_a_ring and names_attention(self.config.model.attention):
            return False  # it has an attention of its own
        try:
            links_of(self.machine, sizes, self.config.mesh.slice_axes)
            self.check({**sizes, "stage": 1}, 0, self.config.model.remat)
        except ValueError as error:
            self.refused.append(str(error))
            return False
        return True

    def layouts(self, sizes: Mapping[str, int], remats: Sequence[str]) -> Iterator[Layout]:
        """The layouts of a mesh; of the microbatches that fit, and without stages, the largest."""
        own = self.layout(sizes)
        share = self.workload.rows // math.prod(sizes[axis] for axis in ("data", "fsdp", "expert"))
        for remat in remats:
            for rows in divisors(share):
                if sizes["stage"] > 1 and not self._suits_stages(sizes, rows, share // rows, remat):
                    continue
                layout = dataclasses.replace(own, microbatch_rows=rows, remat=remat)
                yield layout
                if (
                    sizes["stage"] == 1
                    and estimate_memory(self.workload, layout, self.machine.chip.name).total <= self.limit
                ):
                    break

    def _suits_stages(self, sizes: Mapping[str, int], rows: int, microbatches: int, remat: str) -> bool:
        if not sizes["stage"] <= microbatches <= MICROBATCHES_PER_STAGE * sizes["stage"]:
            return False
        try:
            self.check(sizes, rows, remat)
        except ValueError as error:
            self.refused.append(str(error))
            return False
        return True

    def score(self, layout: Layout, links: Mapping[str, Link] | None = None) -> Candidate:
        """Memory and time of a layout."""
        links = links or links_of(self.machine, layout.sizes, self.config.mesh.slice_axes)
        memory = estimate_memory(self.workload, layout, self.machine.chip.name)
        time = estimate_time(self.workload, layout, self.machine, links)
        return Candidate(layout, memory, time, memory.total <= self.limit)

    def _best_of_mesh(self, sizes: Mapping[str, int], remats: Sequence[str]) -> list[Candidate]:
        """The fastest that fits, or the smallest; none if there is no legal microbatch."""
        of_mesh = [
            (estimate_memory(self.workload, one, self.machine.chip.name).total, one)
            for one in self.layouts(sizes, remats)
        ]
        fitting = [one for size, one in of_mesh if size <= self.limit]
        smallest = [min(of_mesh, key=lambda pair: (pair[0], str(pair[1])))[1]] if of_mesh else []
        links = links_of(self.machine, sizes, self.config.mesh.slice_axes)
        scored = [self.score(layout, links) for layout in fitting or smallest]
        return [min(scored, key=lambda one: one.key)] if scored else []

    def smallest(self) -> tuple[Layout, Memory] | None:
        """The layout that needs least memory, with as few rows as can be and full remat; None if no mesh is legal."""
        found = []
        for shape in factorizations(self.machine.num_devices, len(AXES)):
            sizes: dict[str, int] = dict(zip(AXES, shape, strict=True))
            if sizes["stage"] == 1 and self.legal(sizes):
                layout = dataclasses.replace(self.layout(sizes), microbatch_rows=1, remat="full")
                found.append((layout, estimate_memory(self.workload, layout, self.machine.chip.name)))
        return min(found, key=lambda one: (one[1].total, str(one[0])), default=None)

    def layout(self, sizes: Mapping[str, int]) -> Layout:
        """The layout of a mesh with the config's own choices."""
        return layout_of(self.config, abstract_mesh(sizes), attention=self.attention)

    def candidates(self, remats: Sequence[str] = tuple(REMAT_POLICIES)) -> list[Candidate]:
        """The best candidate of each legal mesh, ranked.

        Raises:
            ValueError: no mesh is legal; it says why not, for the plainest one.
        """
        found = []
        for shape in factorizations(self.machine.num_devices, len(AXES)):
            sizes: dict[str, int] = dict(zip(AXES, shape, strict=True))
            if not self.legal(sizes):
                continue
            found += self._best_of_mesh(sizes, remats)
        if not found:
            raise ValueError(
                f"no mesh of {self.machine.num_devices} devices suits this config. One of the reasons: "
                f"{self.refused[-1] if self.refused else 'the machine has no devices'}"
            )
        return sorted(found, key=lambda one: one.key)
