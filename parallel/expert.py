"""Expert parallelism without drops: each device computes what its experts are given, wherever the tokens are."""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from .sharding import BATCH_AXES, Rules

# The axes over which tokens are divided; the compiler keeps to itself what "tensor" divides.
TOKEN_AXES = (*BATCH_AXES, "context")
NOWHERE = -(2**30)  # an expert that no device has


def exchange_experts(
    experts_fn: Callable[..., Array], *, rules: Rules, axes: Mapping[str, tuple[str, ...]]
) -> Callable[..., Array]:
    """Divides a function over tokens and experts over the mesh that is set where it is called.

    The devices that share the experts gather each other's tokens, compute those copies that chose their own experts,
    and reduce the outputs back to where the tokens came from. Shapes are fixed, so nothing is dropped and it runs on
    every platform; the price is that each device receives all tokens of its group.

    Args:
        experts_fn: called with (x_BTD, chosen_BTk, gates_BTk, weights) and keywords; it leaves out what chose an expert
            outside [0, E), E being the experts that `weights` has.
        rules: the table from logical axes to mesh axes.
        axes: the logical axes of each weight, "experts" first.

    Returns:
        A function called alike. Without a mesh it is `experts_fn` itself.
    """

    def exchange(x_BTD: Array, chosen_BTk: Array, gates_BTk: Array, weights: dict[str, Array], **kwargs) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        manual = tuple(axis for axis in TOKEN_AXES if not mesh.empty and mesh.shape[axis] > 1)
        if not manual:
            return experts_fn(x_BTD, chosen_BTk, gates_BTk, weights, **kwargs)
        table = {logical: tuple(axis for axis in mesh_axes if axis in manual) for logical, mesh_axes in rules}
        weight_specs = {name: PartitionSpec(*(table[logical] for logical in axes[name])) for name in weights}
        token_spec = PartitionSpec(table["batch"], table["length"])
        # Prompts need not fill the mesh: it also computes rows and positions that choose no expert.
        B, T, _ = x_BTD.shape
        rows, columns = (math.prod(mesh.shape[axis] for axis in table[dim]) for dim in ("batch", "length"))
        extra = ((0, -B % rows), (0, -T % columns), (0, 0))
        y_BTD = jax.shard_map(
            functools.partial(_local, functools.partial(experts_fn, **kwargs), table["experts"], weight_specs),
            in_specs=(token_spec, token_spec, token_spec, weight_specs),
            out_specs=token_spec,
            axis_names=set(manual),
            check_vma=False,
        )(
            jnp.pad(x_BTD, extra),
            jnp.pad(chosen_BTk, extra, constant_values=NOWHERE),
            jnp.pad(gates_BTk, extra),
            weights,
        )
        return y_BTD[:B, :T]

    return exchange


def _local(
    experts_fn: Callable[..., Array],
    exchanged: tuple[str, ...],
    specs: Mapping[str, PartitionSpec],
    x_BTD: Array,
    chosen_BTk: Array,
    gates_BTk: Array,
    weights: dict[str, Array],
) -> Array:
    """What a device does with its tokens and its parts of the weights; `exchanged` are the axes of the experts."""
    whole = {}
    for name, part in weights.items():
        for dim, mesh_axes in enumerate(specs[name][1:], start=1):
            if mesh_axes:
                part = jax.lax.all_gather(part, mesh_axes, axis=dim, tiled=True)
        whole[name] = part
    if not exchanged:
        return experts_fn(x_BTD, chosen_BTk, gates_BTk, whole)
    gather = functools.partial(jax.lax.all_gather, axis_name=exchanged, axis=0, tiled=True)
    first = jax.lax.axis_index(exchanged) * next(iter(whole.values())).shape[0]
    y_BTD = experts_fn(gather(x_BTD), gather(chosen_BTk) - first, gather(gates_BTk), whole)
    return jax.lax.psum_scatter(y_BTD, exchanged, scatter_dimension=0, tiled=True)
