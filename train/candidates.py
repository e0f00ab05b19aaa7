"""What a plan chooses from: every legal mesh of a machine, with microbatches, remat policies, attentions and losses.

What a check refuses is no candidate; the check is `preflight`'s. Of the choices that share a mesh only the fastest that
fits stays, or the smallest: a larger microbatch is never slower, so of those that fit the largest is taken.

What a config names is kept, and what it leaves open is tried: with `config.train.objective="auto"` the loss over the
vocabulary all at once and in chunks; where the mesh divides the length, both ring and all-to-all; and with
`config.model.attention="auto"` every kind that can be had on the machine, on the best layout of a mesh. A kernel's own
options, such as the blocks of splash attention, make no difference on paper and stay as they are.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from model import ATTENTIONS, REMAT_POLICIES, choose_attention, names_attention
from parallel import AXES, Link, Machine, abstract_mesh, links_of

from .compiled import Reading
from .compose import CONTEXT_ATTENTION, asked_of_attention, check_mesh, model_config
from .layout import Layout, layout_of
from .memory import Memory, estimate_memory
from .objective import chunk_of
from .step_time import StepTime, estimate_time
from .workload import Workload, workload_of

# Of the usable memory, what an estimate may fill. The rest is for its error, the program, and holes between arrays.
HEADROOM = 0.9
# A pipeline with more microbatches for each stage than this waits less than a thirtieth of its time.
MICROBATCHES_PER_STAGE = 16
# Positions of a loss in chunks, where a plan chooses one.
CHUNK = 512


class Variant(NamedTuple):
    """What is chosen beside mesh, microbatch and remat.

    Attributes:
        attention: as `Layout` has it.
        context_attention: as `Layout` has it.
        objective: as `config.train.objective` says it.
        departs: how many of the three are not what the config takes by itself.
    """

    attention: str
    context_attention: str
    objective: str
    departs: int


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout, and what it takes: on paper, or by the compiler's word if there is a reading.

    Attributes:
        layout: mesh, microbatch, remat and attention.
        objective: as `config.train.objective` says it.
        memory: of a chip.
        time: of a step.
        fits: whether the memory is there; of an estimate, with `HEADROOM`.
        departs: as `Variant` has it; of equal candidates the plainest comes first.
        reading: the compiler's, if it was asked.
    """

    layout: Layout
    objective: str
    memory: Memory
    time: StepTime
    fits: bool
    departs: int = 0
    reading: Reading | None = None

    @property
    def seconds(self) -> float:
        """Half-way between the two bounds of a step."""
        return (self.time.overlapped + self.time.serial) / 2

    @property
    def key(self) -> tuple[Any, ...]:
        """What candidates are ranked by: fitting ones by time, others by memory."""
        size = self.memory.total
        return (not self.fits, self.seconds if self.fits else size, self.departs, size, str(self.layout))


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


def attentions_of(config: Any, machine: Machine) -> list[str]:
    """The attentions that a config may have on a machine: the one it has by itself, and if that is left open the rest.

    Raises:
        ValueError: the one that it names cannot be had there.
    """
    capability = 8.0 if machine.chip.name.startswith("a100") else 9.0
    asked = asked_of_attention(config, model_config(config), machine.chip.platform, capability=capability)
    found = [choose_attention(config.model.attention, asked).kind]
    for kind in ATTENTIONS if config.model.attention == "auto" else ():
        try:
            found.append(choose_attention(kind, asked).kind)
        except ValueError:  # not here
            continue
    return [*dict.fromkeys(found)]


def objectives_of(config: Any) -> list[str]:
    """What `config.train.objective` may say: what it does, and of a loss over the vocabulary in chunks and not."""
    own = config.train.objective
    if own.partition(",")[0].strip() != "auto":
        return [own]
    other = own.partition(",")[0] if chunk_of(config) else f"{own},chunk={CHUNK}"
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.train.objective = other
    try:
        chunk = chunk_of(changed)
    except ValueError:  # no loss over the vocabulary
        return [own]
    return [own] if chunk >= config.data.seq_len else [own, other]


class Search:
    """Scores layouts of one config on one machine.

    Args:
        config: the whole config; a copy is changed from candidate to candidate for the checks.
        workload: of it.
        machine: what it is to run on.
    """

    def __init__(self, config: Any, workload: Workload, machine: Machine, *, headroom: float = HEADROOM):
        self.config, self.machine = config.copy_and_resolve_references(), machine
        self.config.unlock()
        self.attentions = attentions_of(config, machine)
        self.workload, self.workloads = workload, {config.train.objective: workload}
        for objective in objectives_of(config)[1:]:
            self.config.train.objective = objective
            self.workloads[objective] = workload_of(self.config)
        self.config.train.objective = config.train.objective
        self.limit = machine.chip.usable_bytes * headroom
        self.refused: list[str] = []

    def check(self, sizes: Mapping[str, int], rows: int, remat: str, across: str = "") -> None:
        """Checks a mesh as `preflight` does.

        Raises:
            ValueError: it is not legal.
        """
        self.config.train.microbatch_rows = rows
        self.config.model.remat = remat
        own = self.config.mesh.context_attention
        self.config.mesh.context_attention = across or own
        try:
            check_mesh(self.config, abstract_mesh(sizes), self.workload.model, self.workload.rules)  # pyright: ignore
        finally:
            self.config.mesh.context_attention = own

    def variants(self, sizes: Mapping[str, int]) -> list[Variant]:
        """What a mesh may be combined with; none if it is not legal."""
        if sizes["expert"] > 1 and not self.workload.model.num_experts:
            return []  # it would be one more "fsdp" that divides no parameter
        try:
            links_of(self.machine, sizes, self.config.mesh.slice_axes)
        except ValueError as error:
            self.refused.append(str(error))
            return []
        own = self.config.mesh.context_attention
        return [
            Variant(self.attentions[0], across, objective, (across != own) + (i > 0))
            for across in self._across(sizes)
            for i, objective in enumerate(self.workloads)
            if i == 0 or sizes["stage"] == 1
        ]

    def _across(self, sizes: Mapping[str, int]) -> list[str]:
        """The legal ways of attention over a length that the mesh divides; where it does not, the config's own word."""
        own, found = self.config.mesh.context_attention, []
        for across in dict.fromkeys((own, *CONTEXT_ATTENTION)) if sizes["context"] > 1 else (own,):
            if sizes["context"] > 1 and across == "ring" and names_attention(self.config.model.attention):
                continue  # it has an attention of its own
            try:
                self.check({**sizes, "stage": 1}, 0, self.config.model.remat, across)
            except ValueError as error:
                self.refused.append(str(error))
                continue
            found.append(across)
        return found

    def layouts(
        self, sizes: Mapping[str, int], remats: Sequence[str], variant: Variant
    ) -> Iterator[tuple[Layout, Memory]]:
        """The layouts of a mesh with their memory; of the microbatches that fit, and without stages, the largest."""
        own = self.layout(sizes, variant)
        share = self.workload.rows // math.prod(sizes[axis] for axis in ("data", "fsdp", "expert"))
        for remat in remats:
            for rows in divisors(share):
                if sizes["stage"] > 1 and not self._suits_stages(sizes, rows, share // rows, remat):
                    continue
                layout = dataclasses.replace(own, microbatch_rows=rows, remat=remat)
                memory = self.memory(layout, variant.objective)
                yield layout, memory
                if sizes["stage"] == 1 and memory.total <= self.limit:
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

    def layout(self, sizes: Mapping[str, int], variant: Variant) -> Layout:
        """The layout of a mesh with the config's own microbatch and remat."""
        own = layout_of(self.config, abstract_mesh(sizes), attention=variant.attention)
        return dataclasses.replace(own, context_attention=variant.context_attention)

    def own(self) -> Variant:
        """What the config says by itself."""
        return Variant(self.attentions[0], self.config.mesh.context_attention, self.config.train.objective, 0)

    def memory(self, layout: Layout, objective: str) -> Memory:
        """Of a layout, on paper."""
        return estimate_memory(self.workloads[objective], layout, self.machine.chip.name)

    def score(self, layout: Layout, variant: Variant, links: Mapping[str, Link] | None = None) -> Candidate:
        """Memory and time of a layout."""
        links = links or links_of(self.machine, layout.sizes, self.config.mesh.slice_axes)
        memory = self.memory(layout, variant.objective)
        time = estimate_time(self.workloads[variant.objective], layout, self.machine, links)
        return Candidate(layout, variant.objective, memory, time, memory.total <= self.limit, variant.departs)

    def _best_of_mesh(self, sizes: Mapping[str, int], remats: Sequence[str]) -> Candidate | None:
        """The fastest that fits, or the smallest; none if there is no legal microbatch."""
        found = [
            (memory.total, layout, variant)
            for variant in self.variants(sizes)
            for layout, memory in self.layouts(sizes, remats, variant)
        ]
        fitting = [(layout, variant) for size, layout, variant in found if size <= self.limit]
        if not fitting and found:
            _, layout, variant = min(found, key=lambda one: (one[0], one[2].departs, str(one[1])))
            fitting = [(layout, variant)]
        if not fitting:
            return None
        links = links_of(self.machine, sizes, self.config.mesh.slice_axes)
        best, variant = min(
            ((self.score(layout, variant, links), variant) for layout, variant in fitting), key=lambda one: one[0].key
        )
        others = () if best.layout.is_ring else self.attentions[1:]  # a ring has an attention of its own
        found = [best]
        for kind in others:
            other = variant._replace(attention=kind, departs=variant.departs + 1)
            found.append(self.score(dataclasses.replace(best.layout, attention=kind), other, links))
        return min(found, key=lambda one: one.key)

    def smallest(self) -> Candidate | None:
        """The one that needs least memory, with as few rows as can be and full remat; None if no mesh is legal."""
        found = []
        for sizes in self.meshes():
            for variant in self.variants(sizes) if sizes["stage"] == 1 else ():
                layout = dataclasses.replace(self.layout(sizes, variant), microbatch_rows=1, remat="full")
                memory = self.memory(layout, variant.objective)
                found.append((memory.total, variant.departs, str(layout), layout, variant))
        return self.score(*min(found)[3:]) if found else None

    def meshes(self) -> Iterator[dict[str, int]]:
        """All ways to write the devices as a product of the axes, legal or not."""
        for shape in factorizations(self.machine.num_devices, len(AXES)):
            yield dict(zip(AXES, shape, strict=True))

    def candidates(self, remats: Sequence[str] = tuple(REMAT_POLICIES)) -> list[Candidate]:
        """The best candidate of each legal mesh, ranked.

        Raises:
            ValueError: no mesh is legal; it says why not, for the plainest one.
        """
        found = [one for sizes in self.meshes() if (one := self._best_of_mesh(sizes, remats))]
        if not found:
            raise ValueError(
                f"no mesh of {self.machine.num_devices} devices suits this config. One of the reasons: "
                f"{self.refused[-1] if self.refused else 'the machine has no devices'}"
            )
        return sorted(found, key=lambda one: one.key)
