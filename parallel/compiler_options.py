"""Options of XLA's compilers that a train step is compiled with, in one table."""

from typing import Any

from jax.sharding import Mesh

from .mesh import platform_of

# Platform -> option -> value.
OPTIONS: dict[str, dict[str, Any]] = {
    "tpu": {
        # Memory on the chip that an operation may use, in KiB: attention's kernel with blocks of 2,048 needs more than
        # what it may by default, 16 MiB.
        "xla_tpu_scoped_vmem_limit_kib": 65536,
    },
}


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """The options for the devices of a mesh, as `jax.jit` takes them."""
    return dict(OPTIONS.get(platform_of(mesh), {}))
