"""Which links each mesh axis has, and how long its collectives take over them: a bound, not a measurement.

Axes are laid over a slice as `jax.experimental.mesh_utils` does for `make_mesh`: from the innermost, each takes the
dims of the torus whose product it is, as many of them as possible, or else a part of one dim. A ring over a dim whose
ends are joined sends both ways; an axis over several dims uses the links of all of them. Over a switch an axis has all
of a device's bandwidth. The part of an axis that crosses slices has the data-centre network.

The times are those of the usual algorithms (Thakur et al. 2005, doi:10.1177/1094342005051521, sections 4.1 and 4.5;
Austin et al. 2025, jax-ml.github.io/scaling-book/sharding), of n devices that each send w bytes a second:

    all-gather, reduce-scatter   (n - 1) / n x bytes of the whole array / w
    all-reduce                   twice that
    all-to-all                   (n - 1) / n x bytes of a device / w; on a torus, where they are passed on, as many
                                 of them as cross the busiest link
    collective-permute           bytes of a device over one link

A collective over a slices of n / a devices each is done within them first, and then over the slower network by each
device for its part.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping

from .machine import Machine
from .mesh import AXES, MeshConfig, slice_sizes

# XLA for these TPUs has no reduce-scatter: it reduces all, and a device keeps its part.
NO_REDUCE_SCATTER = ("v4", "v5e", "v5p", "v6e")


@dataclasses.dataclass(frozen=True)
class Link:
    """What an axis is joined by.

    Attributes:
        within: its devices in a slice.
        across: slices that it lies over.
        bandwidth: bytes a second that a device sends along the axis within a slice.
        one_link: of them over one link, in one direction.
        all_to_all: bytes a second that a device sends to all devices of the slice alike, what it keeps included.
        dcn_bandwidth: bytes a second that a device sends to other slices.
        is_ring: whether neighbours pass on what is for others, as in a torus.
    """

    within: int
    across: int
    bandwidth: float
    one_link: float
    all_to_all: float
    dcn_bandwidth: float
    is_ring: bool

    def seconds(self, kind: str, num_bytes: float, *, reduce_scatters: bool = True) -> float:
        """How long a collective takes.

        Args:
            kind: as `parallel.collectives` has it.
            num_bytes: as there: of an all-gather and a reduce-scatter the whole array, else a device's.
            reduce_scatters: whether the compiler has a reduce-scatter that is no all-reduce.
        """
        if kind == "collective-permute":
            # One of the ring's passes crosses to another slice, and the ring waits for it.
            return num_bytes / (self.dcn_bandwidth if self.across > 1 else self.one_link)
        if kind == "reduce-scatter" and not reduce_scatters:
            kind = "all-reduce"
        if kind == "all-to-all":
            return num_bytes / self.all_to_all + num_bytes * _share(self.across) / self.dcn_bandwidth
        times = 2 if kind == "all-reduce" else 1
        inside = num_bytes * _share(self.within) / self.bandwidth
        outside = num_bytes / self.within * _share(self.across) / self.dcn_bandwidth
        return times * (inside + outside)

    @property
    def name(self) -> str:
        """Of the network that is slowest on the axis."""
        return "DCN" if self.across > 1 else "ICI" if self.is_ring else "NVLink"


def _share(parts: int) -> float:
    return (parts - 1) / parts


def links_of(machine: Machine, sizes: Mapping[str, int], slice_axes: str = MeshConfig.slice_axes) -> dict[str, Link]:
    """The links of each mesh axis larger than 1.

    Args:
        machine: what the mesh lies on; its number of devices is the product of the sizes.
        sizes: of the mesh axes.
        slice_axes: as `MeshConfig` has it.

    Raises:
        ValueError: no axis can cross the slices.
    """
    across = slice_sizes(MeshConfig(num_slices=machine.num_slices, slice_axes=slice_axes), sizes)
    chip, found = machine.chip, {}
    dims = [*zip(machine.shape, machine.wraps, strict=False)] if chip.torus_dims else []
    inside = {axis: sizes[axis] // across[axis] for axis in AXES}
    cores = chip.devices_per_chip  # two devices of one chip stand beside one another in the innermost axes
    for axis in reversed(AXES):
        if sizes[axis] == 1:
            continue
        bandwidth, crossings = chip.interconnect_bandwidth, 0.0
        if chip.torus_dims:
            shared = math.gcd(cores, inside[axis])
            cores //= shared
            directions, crossings, dims = _take(inside[axis] // shared, dims)
            bandwidth = max(1, directions) * chip.link_bandwidth
        found[axis] = Link(
            within=inside[axis],
            across=across[axis],
            bandwidth=bandwidth,
            one_link=chip.link_bandwidth,
            all_to_all=1 / max(_share(inside[axis]) / bandwidth, crossings / chip.link_bandwidth, 1e-30),
            dcn_bandwidth=chip.dcn_bandwidth,
            is_ring=chip.torus_dims > 0,
        )
    return found


def _take(size: int, dims: list[tuple[int, bool]]) -> tuple[int, float, list[tuple[int, bool]]]:
    """Of an axis of this size the directions in which a device sends, `_crossings`, and the dims that it leaves."""
    for count in (3, 2, 1):
        for chosen in itertools.combinations(range(len(dims)), count):
            taken = [dims[i] for i in chosen]
            if math.prod(side for side, _ in taken) == size:
                left = [dim for i, dim in enumerate(dims) if i not in chosen]
                return _directions(taken), _crossings(taken), left
    # Parts of dims; one that is not whole is a line, of which no end is joined to the other.
    taken, left = [], []
    for length, wraps in dims:
        part = math.gcd(size, length)
        size //= part
        taken.append((part, wraps and part == length))
        left.append((length // part, wraps and part == 1))
    return _directions(taken), _crossings(taken), left


def _directions(dims: list[tuple[int, bool]]) -> int:
    return sum(2 if wraps else 1 for side, wraps in dims if side > 1)


def _crossings(dims: list[tuple[int, bool]]) -> float:
    """How often what a device sends to all alike crosses the busiest link in one direction.

    The middle of a line of s devices is passed by what the s / 2 of one half send to the other, s / 4 times what one
    sends in all; the links of a ring share that between two directions. Other dims have their own links.
    """
    return max((side / (8 if wraps else 4) for side, wraps in dims if side > 1), default=0.0)
