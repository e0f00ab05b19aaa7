"""Work on many matrices, each of them whole on one device: what cannot be divided within a matrix.

Letters: m matrices of a device.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from .mesh import AXES


def spread(fn: Callable[..., Array], *arrays: Array, num_stacked: int, spec: PartitionSpec | None = None) -> Array:
    """Calls a function of matrices that it treats one by one, each device with its share of them.

    All devices of the mesh take part, those that hold the same parameters as well. The parts of a matrix travel to its
    device along each axis that divides it, and its result back: an all-to-all each way. Left to itself, XLA would give
    every matrix to every device.

    Args:
        fn: (m, ...), ... -> (m, ...) for any m; the dims of a matrix may be more than two.
        arrays: of one shape: first the dims that number matrices, then those of a matrix.
        num_stacked: how many number matrices.
        spec: how they are divided over the mesh that is set; None is not at all, on one device.

    Returns:
        What `fn` returns for all of them, divided alike.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {axis: mesh.shape[axis] for axis in AXES if mesh.shape and mesh.shape[axis] > 1}
    if spec is None or not sizes:
        shape = arrays[0].shape
        return fn(*(array.reshape(-1, *shape[num_stacked:]) for array in arrays)).reshape(shape)
    divided = [tuple(axis for axis in _names(entry) if axis in sizes) for entry in spec]
    moves = [(dim - num_stacked + 1, axes) for dim, axes in enumerate(divided) if dim >= num_stacked and axes]
    idle = tuple(axis for axis in sizes if axis not in {axis for axes in divided for axis in axes})
    parts = math.prod(sizes[axis] for axes in (idle, *(axes for _, axes in moves)) for axis in axes)

    def local(*blocks: Array) -> Array:
        shape = blocks[0].shape
        number = math.prod(shape[:num_stacked])
        share = -(-number // parts)
        whole = []
        for block in blocks:
            x = block.reshape(number, *shape[num_stacked:])
            x = jnp.pad(x, [(0, share * parts - number)] + [(0, 0)] * (x.ndim - 1))
            for dim, axes in moves:
                x = jax.lax.all_to_all(x, axes, split_axis=0, concat_axis=dim, tiled=True)
            whole.append(jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(idle) * share, share) if idle else x)
        x = fn(*whole)
        x = jax.lax.all_gather(x, idle, tiled=True) if idle else x
        for dim, axes in reversed(moves):
            x = jax.lax.all_to_all(x, axes, split_axis=dim, concat_axis=0, tiled=True)
        return x[:number].reshape(shape)

    return jax.shard_map(local, in_specs=spec, out_specs=spec, check_vma=False)(*arrays)


def _names(entry: object) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)  # pyright: ignore
