"""Sampling text from a model with a key-value cache.

Letters: B batch, P prompt length, S length of the encoder's input, G generated length, V vocab.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .attention import MASKED
from .cache import init_cache
from .transformer import Transformer


def sample(logits_BV: Array, key: Array, *, temperature: float, top_k: int, top_p: float) -> Array:
    """Draws one token a row.

    Args:
        logits_BV: float32.
        key: a JAX key.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: keep this many of the most likely tokens; 0 keeps all.
        top_p: then keep the smallest set of the most likely tokens whose probabilities, at this temperature, sum
            to at least this (Holtzman et al. 2020, arXiv:1904.09751); 1 keeps all.

    Returns:
        Token ids (B,), int32.
    """
    if temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV / temperature
    if top_k:
        least = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least, MASKED, logits_BV)
    if top_p < 1.0:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
        before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
        least = jnp.min(jnp.where(before_BV < top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least, MASKED, logits_BV)
    return jax.random.categorical(key, logits_BV).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("model", "max_tokens", "temperature", "top_k", "top_p", "eos_id"))
def generate(
    model: Transformer,
    params: Any,
    prompt_BP: Array,
    lengths_B: Array,
    key: Array,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_id: int = -1,
    encoder_tokens_BS: Array | None = None,
    encoder_lengths_B: Array | None = None,
) -> Array:
    """Continues each prompt until `eos_id` or `max_tokens`.

    Args:
        model: the Transformer.
        params: its parameters.
        prompt_BP: token ids, padded on the right.
        lengths_B: tokens in each prompt, at least 1.
        key: a JAX key.
        max_tokens: tokens G to generate.
        temperature: see `sample`, as for the next two.
        top_k: see `sample`.
        top_p: see `sample`.
        eos_id: ends a row; the rest of it is filled with this id. -1 never ends one.
        encoder_tokens_BS: what an encoder-decoder's encoder reads, padded on the right.
        encoder_lengths_B: tokens in each row of it; None is S.

    Returns:
        The new tokens (B, G), int32.
    """
    B, P = prompt_BP.shape
    draw = functools.partial(sample, temperature=temperature, top_k=top_k, top_p=top_p)
    # Prompts of different lengths leave holes in the cache (segment 0); positions run on without a gap.
    positions_BP = jnp.broadcast_to(jnp.arange(P), (B, P))
    segment_ids_BP = (positions_BP < lengths_B[:, None]).astype(jnp.int32)
    memory: dict[str, Any] = {}
    memory_slots = 0
    if encoder_tokens_BS is not None:
        memory_slots = encoder_tokens_BS.shape[1]
        lengths_B1 = (jnp.full((B,), memory_slots) if encoder_lengths_B is None else encoder_lengths_B)[:, None]
        segment_ids_BS = (jnp.arange(memory_slots) < lengths_B1).astype(jnp.int32)
        memory = {"encoder_tokens_BS": encoder_tokens_BS, "encoder_segment_ids_BS": segment_ids_BS}
    cache = init_cache(model.config, B, P + max_tokens, memory_slots=memory_slots)
    logits_BPV, cache = model.apply(
        {"params": params}, prompt_BP, positions_BT=positions_BP, segment_ids_BT=segment_ids_BP, cache=cache, **memory
    )
    last_BV = jnp.take_along_axis(logits_BPV, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    tokens_B = draw(last_BV, jax.random.fold_in(key, 0))

    def unfinished(carry) -> Array:
        i, _, _, ended_B, _ = carry
        return (i < max_tokens) & ~jnp.all(ended_B)

    def advance(carry):
        i, cache, tokens_B, ended_B, output_BG = carry
        logits_B1V, cache = model.apply(
            {"params": params},
            tokens_B[:, None],
            positions_BT=(lengths_B + i - 1)[:, None],
            segment_ids_BT=jnp.ones((B, 1), jnp.int32),
            cache=cache,
        )
        tokens_B = draw(logits_B1V[:, 0], jax.random.fold_in(key, i))
        tokens_B = jnp.where(ended_B, eos_id, tokens_B)
        return i + 1, cache, tokens_B, ended_B | (tokens_B == eos_id), output_BG.at[:, i].set(tokens_B)

    output_BG = jnp.full((B, max_tokens), eos_id, jnp.int32).at[:, 0].set(tokens_B)
    carry = (jnp.ones((), jnp.int32), cache, tokens_B, tokens_B == eos_id, output_BG)
    return jax.lax.while_loop(unfinished, advance, carry)[-1]
