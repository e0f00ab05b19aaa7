"""Meshes, machines and sizes in words, for all that is printed."""

from collections.abc import Mapping

from parallel import Machine
from parallel.hardware import GIB as GIB

DAY = 86400


def axes_in_words(sizes: Mapping[str, int]) -> str:
    """The mesh axes that divide something: "data=4 fsdp=16"."""
    return " ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or "one device"


def machine_in_words(machine: Machine) -> str:
    """Its name as `--topology` has it, with its TPU slices: "v5p:4x4x4 x 2 slices"."""
    several = machine.num_slices > 1 and machine.chip.platform != "gpu"  # the hosts of GPUs are in the name
    return machine.name + (f" x {machine.num_slices} slices" if several else "")


def gib(size: float) -> str:
    """Bytes: "1.25 GiB"."""
    return f"{size / GIB:.2f} GiB"


def quantity(number: float) -> str:
    """As people write it: 1.2T."""
    for letter, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:,.0f}"
