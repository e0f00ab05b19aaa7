"""Work on many matrices, each of them whole on one device: what cannot be divided within a matrix.

Letters: M matrices.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from .mesh import AXES


def spread(fn: Callable[..., Array], *arrays_M: Array) -> Array:
    """Calls a function of matrices that it treats one by one, each device with its share of them.

    Without a mesh it is a plain call. On one, all devices take part, those that hold the same parameters as well: for
    that the matrices travel to their devices, and their results back, once.

    Args:
        fn: (M', ...), ... -> (M', ...) for any M'.
        arrays_M: arrays (M, ...), however they are divided.

    Returns:
        What `fn` returns for all of them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    num_devices = math.prod(mesh.shape.values()) if mesh.shape else 1
    if num_devices == 1:
        return fn(*arrays_M)
    M = arrays_M[0].shape[0]
    missing = -M % num_devices
    spec = PartitionSpec(AXES)
    padded = [jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) for array in arrays_M]
    results = jax.shard_map(fn, in_specs=spec, out_specs=spec, check_vma=False)(*padded)
    return results[:M]
