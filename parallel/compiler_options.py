"""Options of XLA's compilers that a step is compiled with, in one table.

What each gains by the compiler's cycles, docs/compiler-options.md says. Names and what they do: MaxText's list of flags
(github.com/AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py).
"""

from typing import Any

from jax.sharding import Mesh

from .hardware import chip_of

# Memory on the chip that one operation may use, in KiB, instead of 16 MiB of 128: matmuls get larger tiles, and
# attention's kernel needs more with blocks of 2,048.
_MEMORY_OF_OPERATION = {"xla_tpu_scoped_vmem_limit_kib": 65536}
# From how many MiB on a product is cut in pieces that wait for one shard each of a gathered operand: from none. The
# pieces are so small that they take several times the cycles of the whole.
_WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}
# Chip, as in `parallel.hardware` -> option -> value.
OPTIONS: dict[str, dict[str, Any]] = dict.fromkeys(("v5e", "v5p", "v6e"), _MEMORY_OF_OPERATION | _WHOLE_PRODUCTS)


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """The options for the devices of a mesh, as `jax.jit` takes them."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    return dict(OPTIONS.get(chip.name, {})) if chip else {}
