"""What a forward pass keeps for the backward one: asked of JAX for each remat policy, then divided by the mesh.

Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) count these by hand for one kind of layer, 34 + 5 N T / D bytes
for each of T x D numbers of a layer. JAX knows them for every kind: they are what `jax.vjp` holds of the traced model,
without anything being computed. XLA stacks exactly these over the layers.

The model is traced with numbers of rows and tokens that are in no shape of a model, so that each dim of what it keeps
can be told.

Letters: B batch, T length, S length of an encoder, N heads, K kv heads, H head dim, D model, F mlp.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from model import Transformer, TransformerConfig, attention, scan_layers

# Primes: no dim of a model is one of these, or a multiple of two.
ROWS, LENGTH, ENCODER_LENGTH = 1013, 1009, 1019


@dataclasses.dataclass(frozen=True)
class Kept:
    """An array that waits for the backward pass.

    Attributes:
        per_row: its bytes for each row of a microbatch, in all layers, were lengths 1.
        lengths: which it has as factors, of "T" and "S": none, one of a token, two of a pair of query and key.
        divided: what of it the axis "tensor" divides: "heads" (heads or hidden dims), "length" or "" (nothing).
        copies: whether it is of the copies of tokens that go to experts.
    """

    per_row: float
    lengths: str
    divided: str
    copies: bool


@jax.custom_vjp
def fused_attention(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array) -> Array:
    """Stands for an attention that keeps no probabilities (Dao et al. 2022, arXiv:2205.14135, section 3.1)."""
    size = v_BSKH.shape[-1]
    return jnp.broadcast_to(jnp.sum(q_BTNH, axis=-1, keepdims=True), (*q_BTNH.shape[:3], size)).astype(v_BSKH.dtype)


def _keep(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array) -> Any:
    y_BTNH = checkpoint_name(fused_attention(q_BTNH, k_BSKH, v_BSKH), "attention_out")
    log_z_BTN = checkpoint_name(jnp.sum(q_BTNH.astype(jnp.float32), axis=-1), "attention_out")
    return y_BTNH, (q_BTNH, k_BSKH, v_BSKH, y_BTNH, log_z_BTN)


def _pull_back(kept: Any, dy_BTNH: Array) -> Any:
    q_BTNH, k_BSKH, v_BSKH, y_BTNH, log_z_BTN = kept
    needed = jnp.sum(dy_BTNH * y_BTNH) + jnp.sum(log_z_BTN).astype(dy_BTNH.dtype)
    return q_BTNH * needed, k_BSKH * needed, v_BSKH * needed


fused_attention.defvjp(_keep, _pull_back)


def _fused(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, **_: Any) -> Array:
    return fused_attention(q_BTNH, k_BSKH, v_BSKH)


@functools.cache
def kept_activations(model: TransformerConfig, remat: str, *, fused: bool) -> tuple[Kept, ...]:
    """What the layers keep.

    Args:
        model: its shape.
        remat: as `model.remat` reads it; what it offloads to the host is left out.
        fused: whether the attention keeps no probabilities.
    """
    stack_fn = functools.partial(scan_layers, remat=remat)
    module = Transformer(model, attention_fn=_fused if fused else attention, stack_fn=stack_fn)
    tokens_BT, tokens_BS = (jnp.zeros((ROWS, size), jnp.int32) for size in (LENGTH, ENCODER_LENGTH))
    more: dict[str, Any] = {"encoder_tokens_BS": tokens_BS} if model.encoder is not None else {}
    if model.dropout:
        more["dropout_keys_B"] = jax.random.split(jax.random.key(0), ROWS)
    plain = Transformer(model)
    params = jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]

    def hidden(params: Any) -> Array:
        return module.apply({"params": params}, tokens_BT, **more, want="hidden")  # pyright: ignore[reportReturnType]

    held: Any = jax.make_jaxpr(lambda params: jax.vjp(hidden, params)[1])(params).out_avals
    stacked = _stack_sizes(model)
    on_device = [leaf for leaf in held if leaf.memory_space != jax.memory.Space.Host]
    return tuple(_kept(leaf, model) for leaf in on_device if _is_of_layers(leaf, stacked))


def _stack_sizes(model: TransformerConfig) -> set[int]:
    """Possible leading dims of what is stacked over layers: all of a stack, or one for each repeated pattern."""
    period = max(1, len(model.layer_pattern))
    towers = [model.num_layers - model.num_dense_layers, model.num_dense_layers]
    towers += [] if model.encoder is None else [model.encoder.num_layers]
    return {size // period for size in towers} | set(towers)


def _is_of_layers(leaf: Any, stacked: set[int]) -> bool:
    return leaf.ndim > 2 and leaf.shape[0] in stacked and any(_has_tokens(size) for size in leaf.shape[1:])


def _has_tokens(size: int) -> bool:
    return size in (ROWS, LENGTH, ENCODER_LENGTH) or _is_flat(size)


def _is_flat(size: int) -> bool:
    """Whether all tokens are in one dim, or copies of them."""
    return size > 0 and (size % (ROWS * LENGTH) == 0 or size % (ROWS * ENCODER_LENGTH) == 0)


def _kept(leaf: Any, model: TransformerConfig) -> Kept:
    shape, total = leaf.shape[1:], leaf.size * leaf.dtype.itemsize
    lengths = "".join(
        letter
        for size in shape
        for letter, prime in (("T", LENGTH), ("S", ENCODER_LENGTH))
        if size == prime or (_is_flat(size) and size % prime == 0)
    )
    per_row = total / ROWS / LENGTH ** lengths.count("T") / ENCODER_LENGTH ** lengths.count("S")
    rest = [size for size in shape if not _has_tokens(size)]
    copies = any(_is_flat(size) for size in shape) and bool(model.num_experts)
    hidden = {model.d_mlp, model.size_of_expert, model.d_shared_expert, model.num_heads, model.num_kv_heads} - {0, 1}
    divided = ""
    if rest == [model.d_model]:
        divided = "" if copies else "length"
    elif any(size in hidden for size in rest):
        divided = "heads"
    return Kept(per_row=per_row, lengths=lengths, divided=divided, copies=copies)


def bytes_of(
    kept: tuple[Kept, ...],
    *,
    rows: float,
    length: int,
    encoder_length: int = 0,
    sizes: Mapping[str, int],
    divides_length: bool,
    copies: float = 1.0,
) -> float:
    """Bytes on a device.

    Args:
        kept: as `kept_activations` returns them.
        rows: of a microbatch that the device has; of rows whose length is divided, its share.
        length: of a row, in tokens.
        encoder_length: of what the encoder reads of a row.
        sizes: of the mesh axes.
        divides_length: whether "tensor" divides the residual's length.
        copies: how many times as many copies of tokens the experts of a device get as its own tokens make.
    """
    tensor = sizes["tensor"]
    parts = {"heads": tensor, "length": tensor if divides_length else 1, "": 1}
    by_letter = {"T": length, "S": encoder_length}

    def size_of(one: Kept) -> float:
        whole = one.per_row * rows * math.prod(by_letter[letter] for letter in one.lengths)
        return whole / parts[one.divided] * (copies if one.copies else 1.0)

    return math.fsum(size_of(one) for one in kept)
