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
    table = {logical: tuple(axis for axis in mesh_axes if axis in TOKEN_AXES) for logical, mesh_axes in rules}
    exchanged = table["experts"]

    def local(x_BTD: Array, chosen_BTk: Array, gates_BTk: Array, weights: dict[str, Array], **kwargs) -> Array:
        whole = {}
        for name, part in weights.items():
            for dim, logical in enumerate(axes[name][1:], start=1):
                if table[logical]:
                    part = jax.lax.all_gather(part, table[logical], axis=dim, tiled=True)
            whole[name] = part
        if not exchanged:
            return experts_fn(x_BTD, chosen_BTk, gates_BTk, whole, **kwargs)
        gather = functools.partial(jax.lax.all_gather, axis_name=exchanged, axis=0, tiled=True)
        first = jax.lax.axis_index(exchanged) * next(iter(whole.values())).shape[0]
        y_BTD = experts_fn(gather(x_BTD), gather(chosen_BTk) - first, gather(gates_BTk), whole, **kwargs)
        return jax.lax.psum_scatter(y_BTD, exchanged, scatter_dimension=0, tiled=True)

    def exchange(x_BTD: Array, chosen_BTk: Array, gates_BTk: Array, weights: dict[str, Array], **kwargs) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return experts_fn(x_BTD, chosen_BTk, gates_BTk, weights, **kwargs)
        rows = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
        B, T, _ = x_BTD.shape
        # Prompts need not fill the mesh: it also computes rows and positions that choose no expert.
        extra = ((0, -B % rows), (0, -T % mesh.shape["context"]), (0, 0))
        x_BTD, gates_BTk = jnp.pad(x_BTD, extra), jnp.pad(gates_BTk, extra)
        chosen_BTk = jnp.pad(chosen_BTk, extra, constant_values=NOWHERE)
        tokens = PartitionSpec(BATCH_AXES, "context")
        y_BTD = jax.shard_map(
            functools.partial(local, **kwargs),
            in_specs=(tokens, tokens, tokens, {n: PartitionSpec(*(table[a] for a in axes[n])) for n in weights}),
            out_specs=tokens,
            axis_names=set(TOKEN_AXES),
            check_vma=False,
        )(x_BTD, chosen_BTk, gates_BTk, weights)
        return y_BTD[:B, :T]

    return exchange
