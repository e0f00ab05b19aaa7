"""The loss over the vocabulary a few positions at a time: no array ever holds the logits of all of them.

The gradients of a chunk are made where its logits are, in the forward pass, so nothing is computed twice (Hsu et al.
2024, arXiv:2410.10989, section 3.2, fused linear cross-entropy). What it costs is that each chunk adds to the gradient
of the whole table: the wider the chunks, the less.

Letters: P and Q parts that the mesh makes of rows and of the length, B rows and T positions of a part and a chunk, C
chunks, D model, V vocab.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from model import Head
from parallel import num_parts


class _Form(NamedTuple):
    """What is compiled.

    Attributes:
        head: how logits follow, without its arrays.
        z_loss: weight of log(Z)^2.
        chunks: how many there are.
        parts: of rows, and of the length.
    """

    head: Head
    z_loss: float
    chunks: int
    parts: tuple[int, int]


def cross_entropy(logits_BTV: Array, targets_BT: Array) -> tuple[Array, Array]:
    """Negative log-likelihood of the targets, in nats.

    Args:
        logits_BTV: any float dtype.
        targets_BT: ids in [0, V).

    Returns:
        (B, T) float32 losses, and log Z, the logarithm of the softmax's denominator.
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    # A comparison instead of a gather: it fuses, and stays local where the vocabulary is sharded.
    is_target_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    return log_z_BT - jnp.sum(jnp.where(is_target_BTV, logits_BTV, 0.0), axis=-1), log_z_BT


def sum_tokens(logits_BTV: Array, targets_BT: Array, weights_BT: Array, z_loss: float) -> tuple[Array, Array]:
    """Sums over tokens: the loss, which is the negative log-likelihood and `z_loss` log(Z)^2; and the first alone."""
    nll_BT, log_z_BT = cross_entropy(logits_BTV, targets_BT)
    nll = jnp.sum(nll_BT * weights_BT)
    return nll + z_loss * jnp.sum(jnp.square(log_z_BT) * weights_BT) if z_loss else nll, nll


def chunked_sum_tokens(
    head: Head, targets_BT: Array, weights_BT: Array, z_loss: float, *, chunk: int
) -> tuple[Array, Array]:
    """As `sum_tokens` of the head's logits.

    Args:
        head: as the model gives it.
        targets_BT: ids in [0, V).
        weights_BT: float32.
        z_loss: weight of log(Z)^2.
        chunk: the most positions of each row to take at a time; if they do not divide the part of the length that a
            device has, the next smaller number that does.

    Returns:
        The loss, and the negative log-likelihood, a figure that has no gradients.
    """
    parts = (num_parts("batch"), num_parts("length"))
    length = head.x_BTD.shape[1] // parts[1]
    size = next(size for size in range(min(chunk, length), 0, -1) if length % size == 0)
    form = _Form(head.replace(x_BTD=None, table_VD=None, bias_V=None), z_loss, length // size, parts)
    arrays = tuple(_chunks(form, x) for x in (head.x_BTD, targets_BT, weights_BT))
    # Gathered once, and not in each chunk.
    table_VD = nn.with_logical_constraint(head.table_VD, ("vocab", None))
    sums: Any = _sum_chunks(form, arrays[0], table_VD, head.bias_V, *arrays[1:])
    loss, nll = sums
    return loss, jax.lax.stop_gradient(nll)


def _chunks(form: _Form, x: Array) -> Array:
    """Arrays (rows, length, ...) as (C, P, B, Q, T, ...): each device has a part of each chunk."""
    P, Q = form.parts
    x = x.reshape(P, x.shape[0] // P, Q, form.chunks, -1, *x.shape[2:])
    axes = ("batch", None, "length", *(None,) * (x.ndim - 3))
    return jnp.moveaxis(nn.with_logical_constraint(x, axes), 3, 0)


def _sum_chunk(
    form: _Form, x_BTD: Array, table_VD: Array, bias_V: Array | None, targets_BT: Array, weights_BT: Array
) -> tuple[Array, Array]:
    """`sum_tokens` of a part of a chunk."""
    head = form.head.replace(x_BTD=x_BTD, table_VD=table_VD, bias_V=bias_V)
    return sum_tokens(head.logits(), targets_BT, weights_BT, form.z_loss)


def _over_parts(fn: Any) -> Any:
    """Maps over the P and Q of (P, B, Q, T, ...): what each part gives stays with it, and nothing is communicated."""
    by_length = jax.vmap(fn, in_axes=(1, None, None, 1, 1))
    return jax.vmap(by_length, in_axes=(0, None, None, 0, 0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_chunks(form: _Form, x: Array, table_VD: Array, bias_V: Array | None, targets: Array, weights: Array) -> Any:
    of_parts = _over_parts(functools.partial(_sum_chunk, form))

    def body(sums: Any, chunk: Any) -> tuple[Any, None]:
        x, targets, weights = chunk
        return jax.tree.map(jnp.add, sums, of_parts(x, table_VD, bias_V, targets, weights)), None

    zeros = jnp.zeros(form.parts)
    sums, _ = jax.lax.scan(body, (zeros, zeros), (x, targets, weights))
    return jax.tree.map(jnp.sum, sums)


def _forward(form: _Form, x: Array, table_VD: Array, bias_V: Array | None, targets: Array, weights: Array) -> Any:
    value_and_grad = jax.value_and_grad(functools.partial(_sum_chunk, form), argnums=(0, 1, 2), has_aux=True)
    of_parts = _over_parts(value_and_grad)

    def body(sums: Any, chunk: Any) -> tuple[Any, Array]:
        x, targets, weights = chunk
        (loss, nll), (dx_PQBTD, dtable, dbias) = of_parts(x, table_VD, bias_V, targets, weights)
        new = (loss, nll, dtable, dbias)
        sums = jax.tree.map(lambda total, new: total + new.astype(jnp.float32), sums, new)
        return sums, jnp.moveaxis(dx_PQBTD, 1, 2)

    def zeros_of(*shape: int) -> Array:
        axes = ("batch", "length", "vocab", None)[: 2 + len(shape)]
        return nn.with_logical_constraint(jnp.zeros((*form.parts, *shape)), axes)

    start = (zeros_of(), zeros_of(), zeros_of(*table_VD.shape), None if bias_V is None else zeros_of(*bias_V.shape))
    (loss, nll, dtable, dbias), dx = jax.lax.scan(body, start, (x, targets, weights))
    # Each device has added up its own; here their sums are made, once.
    dtable_VD = nn.with_logical_constraint(jnp.sum(dtable, (0, 1)).astype(table_VD.dtype), ("vocab", "embed"))
    dbias_V = None if dbias is None else jnp.sum(dbias, (0, 1))
    return (jnp.sum(loss), jnp.sum(nll)), (dx, dtable_VD, dbias_V)


def _backward(form: _Form, gradients: Any, cotangents: tuple[Array, Array]) -> Any:
    del form
    scaled = jax.tree.map(lambda grad: (grad.astype(jnp.float32) * cotangents[0]).astype(grad.dtype), gradients)
    return *scaled, None, None


_sum_chunks.defvjp(_forward, _backward)
