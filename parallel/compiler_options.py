"""Options of XLA's compilers that a step is compiled with, in one table."""

from typing import Any

from jax.sharding import Mesh

from .hardware import chip_of

# Memory on the chip that one operation may use, in KiB, instead of 16 MiB: attention's kernel needs more with blocks of
# 2,048. These chips have 128 MiB.
_WIDE_BLOCKS = {"xla_tpu_scoped_vmem_limit_kib": 65536}
# Chip, as in `parallel.hardware` -> option -> value.
OPTIONS: dict[str, dict[str, Any]] = {"v5p": _WIDE_BLOCKS, "v6e": _WIDE_BLOCKS}


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """The options for the devices of a mesh, as `jax.jit` takes them."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    return dict(OPTIONS.get(chip.name, {})) if chip else {}
