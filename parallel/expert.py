"""Expert parallelism without drops: each device computes what its experts are given, wherever the tokens are."""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from .sharding import Rules

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
        # All axes are manual: left to XLA, "tensor" would gather the hidden dim, and "stage" could not be mapped over.
        manual = set() if mesh.empty else set(mesh.axis_names) - set(mesh.manual_axes)
        divided = {axis for axis in manual if mesh.shape[axis] > 1}
        if not divided:
            return experts_fn(x_BTD, chosen_BTk, gates_BTk, weights, **kwargs)
        table = {logical: tuple(axis for axis in mesh_axes if axis in divided) for logical, mesh_axes in rules}
        weight_specs = {name: PartitionSpec(*(table[logical] for logical in axes[name])) for name in weights}
        token_spec = PartitionSpec(table["batch"], table["length"])
        local = functools.partial(_local, functools.partial(experts_fn, **kwargs), table, axes)
        # Prompts need not fill the mesh: it also computes rows and positions that choose no expert.
        B, T, _ = x_BTD.shape
        rows, columns = (math.prod(mesh.shape[axis] for axis in table[dim]) for dim in ("batch", "length"))
        extra = ((0, -B % rows), (0, -T % columns), (0, 0))
        y_BTD = jax.shard_map(
            local,
            in_specs=(token_spec, token_spec, token_spec, weight_specs),
            out_specs=token_spec,
            axis_names=manual,
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
    table: Mapping[str, tuple[str, ...]],
    axes: Mapping[str, tuple[str, ...]],
    x_BTD: Array,
    chosen_BTk: Array,
    gates_BTk: Array,
    weights: dict[str, Array],
) -> Array:
    """What a device does with its tokens and its parts of the weights.

    `table` has the mesh axes above size 1 of each logical axis, and `axes` the logical axes of each weight.
    """
    token_axes = table["batch"] + table["length"]
    exchanged = tuple(axis for axis in table["experts"] if axis in token_axes)
    # Axes along which devices have the same tokens: they need not gather the hidden dim, but add up their outputs.
    hidden = tuple(axis for axis in table["mlp"] if axis not in token_axes)
    summed = (*hidden, *(axis for axis in table["experts"] if axis not in token_axes))

    parts = {}
    for name, part in weights.items():
        for dim, logical in enumerate(axes[name][1:], start=1):
            gathered = tuple(axis for axis in table[logical] if logical != "mlp" or axis not in hidden)
            if gathered:
                part = jax.lax.all_gather(part, gathered, axis=dim, tiled=True)
        if hidden and "mlp" not in axes[name]:  # such as an output's bias, which counts once
            part = jnp.where(jax.lax.axis_index(hidden) == 0, part, jnp.zeros((), part.dtype))
        parts[name] = part

    if exchanged:
        x_BTD, chosen_BTk, gates_BTk = (
            jax.lax.all_gather(array, exchanged, axis=0, tiled=True) for array in (x_BTD, chosen_BTk, gates_BTk)
        )
    if table["experts"]:
        chosen_BTk = chosen_BTk - jax.lax.axis_index(table["experts"]) * next(iter(parts.values())).shape[0]
    y_BTD = experts_fn(x_BTD, chosen_BTk, gates_BTk, parts)
    if summed:
        y_BTD = jax.lax.psum(y_BTD, summed)
    return jax.lax.psum_scatter(y_BTD, exchanged, scatter_dimension=0, tiled=True) if exchanged else y_BTD
