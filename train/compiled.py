"""What a compiled train step says of itself: memory, communication, and bounds on its time. Nothing of it is measured.

The bounds are an estimate: the compiler's cycles for all operations but the kernels it cannot see into, the kernels of
attention and of experts by their operations on paper, and collectives by their bytes and the peak of all links of a
device together. *Serial* is their sum, as if nothing went on at the same time, and *overlapped* the longer of
computation and communication, as if all did. Compilers for GPUs and CPUs estimate no cycles: there computation is
counted on paper, as `train.step_time` does.

How the collectives lie on the links, `seconds_by_axis` says, for a planner, which compares meshes.

Letters: H head dim.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from model import attention_flops
from parallel import Chip, Link, Machine, links_of
from parallel.collectives import SLICES, Collective, Totals, collectives, totals
from parallel.cycles import Kernel, Work, work
from parallel.hlo import parse_program
from parallel.mesh import slice_sizes

from .ahead import REMATERIALIZATION, Compiled
from .compose import attention_of, make_model, num_microbatches
from .device_memory import CompiledMemory, memory_of
from .flops import lengths_of, peak_of, step_work
from .layout import layout_of
from .step_time import estimate_time
from .workload import workload_of

# Attention's kernels, by what their names have in them -> matmuls over all pairs of positions in one run. Two forward;
# backward, the logits again and four gradients, in one kernel, or divided over two, which both need the logits.
_FORWARD, _BACKWARD, _DQ, _DKV = 2, 5, 3, 4
# The experts' matmuls (`model/grouped_matmul.py`) by the names that XLA and megablox give their kernels.
_GROUPED = re.compile(r"^(ragged-dot(?!-metadata)|t?gmm)\b")


@dataclasses.dataclass(frozen=True)
class Reading:
    """A compiled step, read for a machine.

    Attributes:
        machine: what it was compiled for.
        mesh: sizes of the mesh axes.
        memory: of a device.
        tokens: of a step.
        flops: of a step, all devices together, as MFU counts them.
        collectives: of one device, without those that only hand on scalars.
        work: cycles, and kernels.
        attention_flops: of a device, in its kernels.
        attention_s: seconds that they take at their peak.
        experts_s: seconds that the kernels of experts take at the peak.
        ici_s: seconds of the collectives within a slice, or a host, at the links' peak.
        dcn_s: the same of those between slices, or hosts, on the network between them.
        paper_s: seconds of computation on paper, where the compiler estimates no cycles.
        messages: what the compiler warned of.
        compile_s: how long it took here.
        peak: operations a second of a device (`train.flops.peak_of`); 0 is the chip's in bfloat16.
    """

    machine: Machine
    mesh: dict[str, int]
    memory: CompiledMemory
    tokens: int
    flops: float
    collectives: tuple[Collective, ...] = ()
    work: Work = dataclasses.field(default_factory=lambda: Work({}))
    attention_flops: float = 0.0
    attention_s: float = 0.0
    experts_s: float = 0.0
    ici_s: float = 0.0
    dcn_s: float = 0.0
    paper_s: float = 0.0
    messages: tuple[str, ...] = ()
    compile_s: float = 0.0
    peak: float = 0.0

    @property
    def ideal_s(self) -> float:
        """Seconds of a step at 100% MFU."""
        return self.flops / self.machine.num_devices / (self.peak or self.machine.chip.peak("bfloat16"))

    @property
    def has_cycles(self) -> bool:
        """Whether the compiler estimated cycles, as that for TPUs does."""
        return bool(self.work.total_cycles and self.machine.chip.clock_hz)

    @property
    def kernels_s(self) -> float:
        """Seconds of the kernels, on paper."""
        return self.attention_s + self.experts_s

    @property
    def compute_s(self) -> float:
        """Seconds of computation; without cycles, those on paper."""
        if not self.has_cycles:
            return max(self.paper_s, self.ideal_s)
        return self.work.total_cycles / (self.machine.chip.clock_hz or math.inf) + self.kernels_s

    @property
    def network_s(self) -> float:
        """Seconds of communication, one after the other."""
        return self.ici_s + self.dcn_s

    @property
    def serial_s(self) -> float:
        """A step's seconds if nothing overlaps."""
        return self.compute_s + self.network_s

    @property
    def overlapped_s(self) -> float:
        """A step's seconds if communication hides behind computation, or the other way round."""
        return max(self.compute_s, self.network_s)

    @property
    def totals(self) -> Totals:
        """Tensors and bytes of the collectives, by kind and mesh axes."""
        return totals(list(self.collectives))

    def mfu(self, seconds: float) -> float:
        """The share of the peak that a step of so many seconds reaches."""
        return self.ideal_s / seconds if seconds else 0.0


def read_step(config: Any, machine: Machine, mesh: Mesh, compiled: Compiled, *, compile_s: float = 0.0) -> Reading:
    """Reads a compiled step.

    Args:
        config: the whole config.
        machine: what it was compiled for.
        mesh: its devices are those of `topology_devices(machine)`.
        compiled: by `compile_and_listen`.
        compile_s: how long that took.
    """
    text, chip = compiled.text, machine.chip
    tokens, flops = step_work(config)
    # As the links see it: where XLA writes a reduce-scatter as an all-reduce, an all-reduce is what runs.
    found = tuple(collectives(text, axes_within(config, machine, mesh), sliced_all_reduce=False))
    done = work(parse_program(text))
    of_attention = kernel_flops(config, mesh, done.kernels)
    hosts = hosts_of(machine, mesh)
    seconds = [seconds_of(one, machine, hosts) for one in found]
    has_cycles = bool(done.total_cycles and chip.clock_hz)
    return Reading(
        machine=machine,
        mesh=dict(mesh.shape),
        memory=memory_of(compiled.program, machine),
        tokens=tokens,
        flops=flops,
        collectives=found,
        work=done,
        attention_flops=of_attention,
        attention_s=of_attention / attention_peak(config, chip),
        experts_s=expert_flops(config, mesh, done.kernels) / chip.peak(make_model(config).config.compute_dtype),
        ici_s=sum(ici for ici, _ in seconds),
        dcn_s=sum(dcn for _, dcn in seconds),
        paper_s=0.0 if has_cycles else seconds_on_paper(config, machine, mesh),
        messages=warnings_in(compiled.messages),
        compile_s=compile_s,
        peak=peak_of(config, chip),
    )


def seconds_on_paper(config: Any, machine: Machine, mesh: Mesh) -> float:
    """Computation, with what remat does again and the ticks in which a stage waits; 0 for models of images."""
    if make_model(config).config.image:
        return 0.0
    layout = layout_of(config, mesh, attention=attention_of(config, mesh).kind)
    joined = dataclasses.replace(machine, shape=(machine.num_devices,), num_slices=1)  # the network is not asked for
    time = estimate_time(workload_of(config), layout, machine, links_of(joined, layout.sizes))
    return max(time.compute, time.memory) / (1 - time.waiting) + time.alone


def attention_peak(config: Any, chip: Chip) -> float:
    """Operations per second that attention's kernels can reach: heads narrower than an MXU leave a part of it idle."""
    model = make_model(config).config
    return chip.peak(model.compute_dtype, inner=model.size_of_head)


def kernel_flops(config: Any, mesh: Mesh, kernels: Sequence[Kernel]) -> float:
    """Operations of a device's attention kernels, by how often each runs; pairs that a causal mask hides do not count.

    The kernels of one pass over all layers and microbatches do the attention of the whole batch. Kernels with other
    names than attention's are left out.
    """
    names = [(kernel, kernel.name.lower()) for kernel in kernels]
    is_split = any(re.search(r"(?<![a-z])dq(?![a-z])", name) for _, name in names)
    matmuls = 0
    for kernel, name in names:
        if not re.search("attention|splash|flash|mha|fmha", name + kernel.target.lower()):
            continue
        if re.search(r"(?<![a-z])dq(?![a-z])", name):
            each = _DQ
        elif re.search(r"(?<![a-z])dkv(?![a-z])", name):
            each = _DKV if is_split else _BACKWARD
        else:
            each = _BACKWARD if re.search("bwd|backward", name + kernel.target.lower()) else _FORWARD
        matmuls += each * kernel.runs
    if not matmuls:
        return 0.0
    model = make_model(config).config
    length, encoder_length = lengths_of(config)
    one_pass = config.data.batch_size * attention_flops(model, length, encoder_length=encoder_length) / 2
    towers = model.num_layers * (2 if model.encoder else 1) + (model.encoder.num_layers if model.encoder else 0)
    runs_of_a_pass = towers * num_microbatches(config, mesh)
    return one_pass / mesh.size * matmuls / runs_of_a_pass * mesh.shape["stage"]


def expert_flops(config: Any, mesh: Mesh, kernels: Sequence[Kernel]) -> float:
    """Operations of a device's grouped matmuls, by how often each runs, if all experts are chosen equally often.

    Each takes every copy of a token through one matrix of its expert, or brings a gradient back, which is as much.
    """
    runs = sum(kernel.runs for kernel in kernels if _GROUPED.match(kernel.name))
    if not runs:
        return 0.0
    model = make_model(config).config
    copies = config.data.batch_size * lengths_of(config)[0] * model.experts_per_token
    one_pass = 2 * copies * model.d_model * model.size_of_expert / mesh.size
    return runs * one_pass / num_microbatches(config, mesh) * mesh.shape["stage"]


def axes_within(config: Any, machine: Machine, mesh: Mesh) -> dict[str, int]:
    """Sizes of the mesh axes that a program's device numbers stand for: of several TPU slices it is that of one."""
    sizes = dict(mesh.shape)
    if machine.chip.platform != "tpu":
        return sizes
    across = slice_sizes(config.mesh, sizes)
    return {axis: size // across[axis] for axis, size in sizes.items()}


def hosts_of(machine: Machine, mesh: Mesh) -> tuple[int, ...]:
    """Which devices of a program a fast network joins: the host of each GPU; all of a TPU slice have one number."""
    if machine.chip.platform == "tpu":
        return (0,) * machine.devices_per_slice
    devices = mesh.devices.flatten().tolist()
    first = min(device.id for device in devices)
    return tuple((device.id - first) // machine.devices_per_slice for device in devices)


def seconds_of(one: Collective, machine: Machine, hosts: tuple[int, ...]) -> tuple[float, float]:
    """Seconds of all runs of a collective, within slices or hosts and between them.

    An all-gather brings a device as many bytes as its output has, a reduce-scatter takes as many as its input has, and
    an all-reduce is both (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002, for rings; a torus shares the bytes
    out over all its links). Between hosts each device of a group moves its share of what its host has to.
    """
    chip, moved = machine.chip, float(one.bytes * one.runs) * (2 if one.kind == "all-reduce" else 1)
    if one.axes == SLICES:
        share = 1.0 if one.kind == "collective-permute" else 1 - 1 / machine.num_slices
        return 0.0, moved * share / chip.dcn_bandwidth
    if one.kind == "collective-permute":
        crosses = any(hosts[a] != hosts[b] for a, b in one.groups)
        return (0.0, moved / chip.dcn_bandwidth) if crosses else (moved / chip.link_bandwidth, 0.0)
    num_hosts, size = _spread(one.groups, hosts)
    within = moved / chip.interconnect_bandwidth if size > num_hosts else 0.0
    return within, moved * (num_hosts - 1) / size / chip.dcn_bandwidth


def seconds_by_axis(reading: Reading, links: Mapping[str, Link]) -> dict[str, float]:
    """Seconds of a step's collectives over the links that their axes have, as `train.step_time` counts them on paper.

    Args:
        reading: a compiled step.
        links: as `parallel.links_of` finds them for its mesh.

    Returns:
        Seconds by mesh axis, several joined by "+"; between TPU slices, "slices".
    """
    machine, found = reading.machine, dict[str, float]()
    for one in reading.collectives:
        num_bytes, name = float(one.bytes * one.runs), "+".join(one.axes)
        if one.axes == SLICES:
            seconds = seconds_of(one, machine, ())[1]
        else:
            link = _joined([links[axis] for axis in one.axes])
            if machine.chip.platform == "tpu":  # a program of several slices tells what crosses them apart
                link = dataclasses.replace(link, across=1)
            seconds = link.seconds(one.kind, num_bytes)
        found[name] = found.get(name, 0.0) + seconds
    return found


def _joined(links: Sequence[Link]) -> Link:
    """The links of a collective over several axes: all of theirs."""
    return dataclasses.replace(
        links[0],
        within=math.prod(link.within for link in links),
        across=math.prod(link.across for link in links),
        bandwidth=sum(link.bandwidth for link in links) if links[0].is_ring else links[0].bandwidth,
        all_to_all=min(link.all_to_all for link in links),
    )


@functools.cache
def _spread(groups: tuple[tuple[int, ...], ...], hosts: tuple[int, ...]) -> tuple[int, int]:
    """Over how many hosts the devices of a group are spread, and how many there are."""
    return max(len({hosts[device] for device in group}) for group in groups), max(map(len, groups))


def warnings_in(messages: str) -> tuple[str, ...]:
    """What the compiler said that a user should know: involuntary rematerializations, each once."""
    lines = [line.strip() for line in messages.splitlines() if REMATERIALIZATION.lower() in line.lower()]
    return tuple(dict.fromkeys(re.sub(r"^.*?(?=\[?spmd|Involuntary)", "", line)[:400] for line in lines))
