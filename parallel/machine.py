"""Machines by the names that users give them: a chip, how many, and how they are joined."""

import dataclasses
import difflib
import itertools
import math
import os
import re
from collections.abc import Callable
from typing import Any

from .hardware import CHIPS, GPU_MEMORY_FRACTION, Chip


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices that a job runs on.

    Attributes:
        chip: each of them.
        shape: chips of a slice in each dim of its torus; of GPUs those of a host, of a CPU its simulated devices.
        num_slices: groups of devices that only the data-centre network joins: TPU slices, or hosts of GPUs.
    """

    chip: Chip
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def devices_per_slice(self) -> int:
        """Devices that ICI or NVLink joins."""
        return math.prod(self.shape) * self.chip.devices_per_chip

    @property
    def num_devices(self) -> int:
        """All devices."""
        return self.devices_per_slice * self.num_slices

    @property
    def num_chips(self) -> int:
        """All chips, as they are paid for."""
        return self.num_devices // self.chip.devices_per_chip

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Of each dim of the torus, whether its ends are joined; then a ring over it sends both ways at once.

        Slices of v4, v5p and TPU7x wrap where they are made of whole cubes of 4 x 4 x 4; v5e and v6e where a dim is
        that of the whole pod, 16 (jax-ml.github.io/scaling-book/tpus, "TPU Networking").
        """
        if self.chip.torus_dims == 3:
            return (all(size % 4 == 0 for size in self.shape),) * 3
        return tuple(self.chip.torus_dims == 2 and size == 16 for size in self.shape)

    @property
    def name(self) -> str:
        """As `parse_machine` reads it, without the number of TPU slices."""
        sizes = "x".join(map(str, self.shape))
        if self.chip.platform == "gpu":
            return f"gpu:{self.chip.name}:{sizes}" + (f"x{self.num_slices}" if self.num_slices > 1 else "")
        return f"{self.chip.name}:{sizes}"


def parse_machine(text: str, num_slices: int = 1) -> Machine:
    """The machine of a name.

    Args:
        text: "v5p:4x4x4" and so on for TPUs, as Google Cloud names topologies, or "v5e-8" as it names machines, where
            that is a single shape; "gpu:h100:8x16" for 16 hosts of 8 GPUs, or "gpu:h200:1"; "cpu" or, with that many
            simulated devices, "cpu:8".
        num_slices: of TPUs, slices of that shape. Of simulated CPUs, groups that make believe to be slices.

    Raises:
        ValueError: an unknown chip or a shape that is not made; the nearest ones are named.

    Example:
        parse_machine("v5p:4x4x4", num_slices=2).num_devices == 128
    """
    if found := re.fullmatch(r"(v\w+|tpu\w+)-(\d+)", text.strip().lower()):
        return _of_cloud(found[1], int(found[2]), num_slices, text)
    name, _, shape = text.strip().lower().partition(":")
    if name == "gpu":
        name, _, shape = shape.partition(":")
    sizes = tuple(int(size) for size in shape.split("x")) if re.fullmatch(r"\d+(x\d+)*", shape) else ()
    chip = CHIPS.get(name)
    if chip is None or (chip.platform == "gpu") != text.strip().lower().startswith("gpu:"):
        raise ValueError(f"--topology={text}: unknown chip; {_nearest(text)}")
    if num_slices < 1:
        raise ValueError(f"--num-slices={num_slices} must be at least 1")
    return _PLATFORMS[chip.platform](chip, sizes, num_slices, text)


# Cloud's names of TPUs that are not the chip's; and those whose numbers count cores, of which a chip has two, as the
# tables of docs.cloud.google.com/tpu/docs/v4 and v5p show.
_OF_CLOUD = {"v5litepod": "v5e"}
_COUNTED_BY_CORES = ("v4", "v5p")


def _of_cloud(name: str, number: int, num_slices: int, text: str) -> Machine:
    """The machine of a name such as "v5e-8".

    Raises:
        ValueError: there is none, or there are several shapes; they are named.
    """
    chip = CHIPS.get(_OF_CLOUD.get(name, name))
    if chip is None or chip.platform != "tpu":
        raise ValueError(f"--topology={text}: unknown chip; {_nearest(name)}")
    number_of_chips = number // 2 if chip.name in _COUNTED_BY_CORES else number
    shapes = [shape for shape in tpu_shapes(chip) if math.prod(shape) == number_of_chips]
    if len(shapes) == 1 and not (chip.name in _COUNTED_BY_CORES and number % 2):
        return parse_machine(f"{chip.name}:{'x'.join(map(str, shapes[0]))}", num_slices)
    counts = (
        f"{number_of_chips} chips, as {name}-N counts cores" if chip.name in _COUNTED_BY_CORES else f"{number} chips"
    )
    if not shapes:
        return _tpu(chip, (number_of_chips,), num_slices, text)  # names the nearest
    named = ", ".join(f"{chip.name}:{'x'.join(map(str, shape))}" for shape in shapes)
    raise ValueError(f"--topology={text}: {counts}; write its shape, one of {named}")


def _nearest(text: str) -> str:
    names = [f"gpu:{chip.name}" if chip.platform == "gpu" else chip.name for chip in CHIPS.values()]
    asked = ":".join(text.lower().split(":")[: 2 if text.lower().startswith("gpu:") else 1])
    near = difflib.get_close_matches(asked, names, 3, 0.4) or [name for name in names if asked in name]
    return (f"did you mean {', '.join(near)}? " if near else "") + f"known are {', '.join(names)}"


def tpu_shapes(chip: Chip) -> list[tuple[int, ...]]:
    """The shapes of slices that Google Cloud offers of a TPU, small ones first (docs.cloud.google.com/tpu/docs)."""
    if chip.torus_dims == 2:
        return [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
    cubes = itertools.combinations_with_replacement(range(4, chip.pod_chips // 16 + 1, 4), 3)
    whole = sorted((shape for shape in cubes if math.prod(shape) <= chip.pod_chips), key=math.prod)
    return [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), *whole]


def _tpu(chip: Chip, sizes: tuple[int, ...], num_slices: int, text: str) -> Machine:
    shapes = tpu_shapes(chip)
    if sizes not in shapes:
        asked = math.prod(sizes) if sizes else 1
        near = sorted(
            shapes, key=lambda shape: (_ratio(math.prod(shape), asked), shape != tuple(sorted(sizes)), max(shape))
        )
        named = ", ".join(f"{chip.name}:{'x'.join(map(str, shape))}" for shape in near[:4])
        rule = (
            "each dim a multiple of 4 in rising order, or smaller than a cube"
            if chip.torus_dims == 3
            else "up to 16x16"
        )
        raise ValueError(f"--topology={text}: there is no such slice of {chip.name} ({rule}); the nearest are {named}")
    return Machine(chip, sizes, num_slices)


def _ratio(a: int, b: int) -> float:
    return max(a, b) / max(1, min(a, b))


def _gpu(chip: Chip, sizes: tuple[int, ...], num_slices: int, text: str) -> Machine:
    legal = len(sizes) in (1, 2) and min(sizes) >= 1 and sizes[0] <= chip.devices_per_host
    if not legal or (len(sizes) == 2 and sizes[1] > 1 and sizes[0] != chip.devices_per_host):
        raise ValueError(
            f"--topology={text}: write gpu:{chip.name}:1 to gpu:{chip.name}:{chip.devices_per_host} for the GPUs of a "
            f"host, or gpu:{chip.name}:{chip.devices_per_host}x16 for 16 hosts"
        )
    hosts = sizes[1] if len(sizes) == 2 else 1
    if num_slices not in (1, hosts):
        raise ValueError(
            f"--num-slices={num_slices} with --topology={text}: the slices of GPUs are their hosts; write "
            f"gpu:{chip.name}:{sizes[0]}x{num_slices}"
        )
    fraction = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or os.environ.get("XLA_CLIENT_MEM_FRACTION")
    if fraction:  # counts here as it does in a run
        usable = int(chip.usable_bytes / GPU_MEMORY_FRACTION * float(fraction))
        chip = dataclasses.replace(chip, usable_bytes=usable)
    return Machine(chip, sizes[:1], hosts)


def _cpu(chip: Chip, sizes: tuple[int, ...], num_slices: int, text: str) -> Machine:
    if text.strip().lower() != "cpu" and (len(sizes) != 1 or sizes[0] < 1):
        raise ValueError(f"--topology={text}: write cpu, or cpu:8 for 8 simulated devices")
    num_devices = sizes[0] if sizes else 1
    if num_devices % num_slices:
        raise ValueError(f"--num-slices={num_slices} does not divide the {num_devices} devices of --topology={text}")
    shares: dict[str, Any] = {
        "hbm_bytes": chip.hbm_bytes // num_devices,
        "usable_bytes": chip.usable_bytes // num_devices,
        "hbm_bandwidth": chip.hbm_bandwidth / num_devices,
        "peak_flops": {dtype: peak / num_devices for dtype, peak in chip.peak_flops.items()},
    }
    return Machine(dataclasses.replace(chip, **shares), (num_devices // num_slices,), num_slices)


_PLATFORMS: dict[str, Callable[[Chip, tuple[int, ...], int, str], Machine]] = {"tpu": _tpu, "gpu": _gpu, "cpu": _cpu}
