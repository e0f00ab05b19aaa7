"""Text from a model with a key-value cache: a first pass over the prompts, then a token a row at a time.

`begin` and `advance` are compiled once for each shape, whatever the lengths of the prompts and the number of tokens
asked for; a caller may look at the text in between. `generate` is both in one.

Letters: B batch, P prompt length, S length of the encoder's input, G room for generated tokens, V vocab.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from .cache import KVCache, init_cache
from .sampling import Sampling, sample, tokens_seen
from .transformer import Transformer


class Continuation(struct.PyTreeNode):
    """Texts being written.

    Attributes:
        cache: keys and values of all tokens but the last.
        lengths_B: tokens of each prompt.
        keys_B: a key for each row; token i is drawn with `fold_in(key, i)`.
        count: tokens written, the same for all rows.
        tokens_BG: these tokens, then `eos_id`.
        ended_B: rows that have an `eos_id`.
        seen_BV: tokens of each row, if the repetition penalty needs them.
    """

    cache: KVCache
    lengths_B: Array
    keys_B: Array
    count: Array
    tokens_BG: Array
    ended_B: Array
    seen_BV: Array | None


def row_keys(key: Array, num_rows: int) -> Array:
    """A key for each row, by its number alone: what a row draws does not depend on how many others there are."""
    return jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(num_rows))


def read_prompts(
    model: Transformer,
    params: Any,
    prompt_BP: Array,
    lengths_B: Array,
    room: int,
    encoder_tokens_BS: Array | None = None,
    encoder_lengths_B: Array | None = None,
    *,
    both_ways: bool = False,
) -> tuple[Array, KVCache]:
    """Logits of the first new token (B, V), and a cache with room for more; see `generate` for the arguments."""
    B, P = prompt_BP.shape
    memory: dict[str, Any] = {}
    memory_slots = 0
    if encoder_tokens_BS is not None:
        memory_slots = encoder_tokens_BS.shape[1]
        lengths = jnp.full((B,), memory_slots, jnp.int32) if encoder_lengths_B is None else encoder_lengths_B
        positions_BS, segment_ids_BS = _padded(lengths, memory_slots)
        memory = {"encoder_tokens_BS": encoder_tokens_BS, "encoder_positions_BS": positions_BS}
        memory |= {"encoder_segment_ids_BS": segment_ids_BS}
    # Prompts of different lengths leave holes in the cache (segment 0); positions run on without a gap.
    positions_BP, segment_ids_BP = _padded(lengths_B, P)
    logits_BPV, cache = model.apply(
        {"params": params},
        prompt_BP,
        positions_BT=positions_BP,
        segment_ids_BT=segment_ids_BP,
        order_BT=jnp.zeros_like(positions_BP) if both_ways else None,
        cache=init_cache(model.config, B, P + room, memory_slots=memory_slots),
        **memory,
    )
    last_B11 = jnp.maximum(lengths_B - 1, 0)[:, None, None]
    return jnp.take_along_axis(logits_BPV, last_B11, axis=1)[:, 0], cache  # pyright: ignore[reportReturnType]


def _padded(lengths_B: Array, length: int) -> tuple[Array, Array]:
    """Positions and segment ids of rows padded on the right; padding stays within what learned positions reach."""
    places = jnp.arange(length, dtype=jnp.int32)
    last_B1 = lengths_B.astype(jnp.int32)[:, None] - 1
    return jnp.minimum(places, jnp.maximum(last_B1, 0)), (places <= last_B1).astype(jnp.int32)


def read_token(
    model: Transformer, params: Any, tokens_B: Array, positions_B: Array, cache: KVCache
) -> tuple[Array, KVCache]:
    """Logits of the token after `tokens_B`, (B, V), and the cache with these."""
    logits_B1V, cache = model.apply(
        {"params": params},
        tokens_B[:, None],
        positions_BT=positions_B[:, None],
        segment_ids_BT=jnp.ones((tokens_B.shape[0], 1), jnp.int32),
        cache=cache,
    )  # pyright: ignore[reportAssignmentType]
    return logits_B1V[:, 0], cache


@functools.partial(jax.jit, static_argnames=("model", "room", "sampling", "both_ways"))
def begin(
    model: Transformer,
    params: Any,
    prompt_BP: Array,
    lengths_B: Array,
    keys_B: Array,
    *,
    room: int,
    sampling: Sampling,
    eos_id: Array | int,
    encoder_tokens_BS: Array | None = None,
    encoder_lengths_B: Array | None = None,
    both_ways: bool = False,
) -> Continuation:
    """Reads the prompts and draws the first token of each row.

    Args:
        model: see `generate`, as for the next three.
        params: see there.
        prompt_BP: see there.
        lengths_B: see there.
        keys_B: of `row_keys`.
        room: tokens G that can be written at most.
        sampling: see `generate`, as for the rest.
        eos_id: see there.
        encoder_tokens_BS: see there.
        encoder_lengths_B: see there.
        both_ways: see there.
    """
    memory = (encoder_tokens_BS, encoder_lengths_B)
    logits_BV, cache = read_prompts(model, params, prompt_BP, lengths_B, room, *memory, both_ways=both_ways)
    B, P = prompt_BP.shape
    seen_BV = None
    if sampling.repetition_penalty != 1.0:
        seen_BV = tokens_seen(prompt_BP, jnp.arange(P) < lengths_B[:, None], logits_BV.shape[-1])
    start = Continuation(
        cache=cache,
        lengths_B=lengths_B.astype(jnp.int32),
        keys_B=keys_B,
        count=jnp.zeros((), jnp.int32),
        tokens_BG=jnp.full((B, room), eos_id, jnp.int32),
        ended_B=lengths_B == 0,
        seen_BV=seen_BV,
    )
    return _write(start, logits_BV, sampling, eos_id)


def _write(state: Continuation, logits_BV: Array, sampling: Sampling, eos_id: Array | int) -> Continuation:
    """Draws the next token of each row."""
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(state.keys_B, state.count)
    tokens_B = jnp.where(state.ended_B, eos_id, sample(logits_BV, keys_B, sampling, state.seen_BV))
    seen_BV = state.seen_BV
    if seen_BV is not None:
        seen_BV = seen_BV | (jnp.arange(seen_BV.shape[-1]) == tokens_B[:, None])
    return state.replace(
        count=state.count + 1,
        tokens_BG=jax.lax.dynamic_update_slice_in_dim(state.tokens_BG, tokens_B[:, None], state.count, axis=1),
        ended_B=state.ended_B | (tokens_B == eos_id),
        seen_BV=seen_BV,
    )


@functools.partial(jax.jit, static_argnames=("model", "sampling"), donate_argnames="state")
def advance(
    model: Transformer, params: Any, state: Continuation, limit: Array | int, *, sampling: Sampling, eos_id: Array | int
) -> Continuation:
    """Writes until each row has `limit` tokens, at most the room of `begin`, or all have ended.

    It takes over the memory of `state`. In how many calls the tokens are written makes no difference to them.
    """

    def unfinished(state: Continuation) -> Array:
        return (state.count < limit) & ~jnp.all(state.ended_B)

    def step(state: Continuation) -> Continuation:
        last_B = jax.lax.dynamic_index_in_dim(state.tokens_BG, state.count - 1, axis=1, keepdims=False)
        positions_B = state.lengths_B + state.count - 1
        logits_BV, cache = read_token(model, params, last_B, positions_B, state.cache)
        return _write(state.replace(cache=cache), logits_BV, sampling, eos_id)

    return jax.lax.while_loop(unfinished, step, state)


@functools.partial(jax.jit, static_argnames=("model", "max_tokens", "sampling", "both_ways"))
def generate(
    model: Transformer,
    params: Any,
    prompt_BP: Array,
    lengths_B: Array,
    key: Array,
    *,
    max_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008, it is frozen
    eos_id: Array | int = -1,
    encoder_tokens_BS: Array | None = None,
    encoder_lengths_B: Array | None = None,
    both_ways: bool = False,
) -> Array:
    """Continues each prompt until `eos_id` or `max_tokens`.

    Args:
        model: the Transformer.
        params: its parameters.
        prompt_BP: token ids, padded on the right; of an encoder-decoder, what the decoder begins with.
        lengths_B: tokens in each prompt; a row of none only fills up the batch, and has ended before it began.
        key: a JAX key; row i draws with `fold_in(key, i)`.
        max_tokens: tokens G to generate.
        sampling: how they are drawn.
        eos_id: ends a row; the rest of it is filled with this id. -1 never ends one.
        encoder_tokens_BS: what an encoder-decoder's encoder reads, padded on the right.
        encoder_lengths_B: tokens in each row of it; None is S.
        both_ways: whether the tokens of a prompt all see one another, as a prefix that the model was trained with.

    Returns:
        The new tokens (B, G), int32.
    """
    keys_B = row_keys(key, prompt_BP.shape[0])
    how: dict[str, Any] = {"sampling": sampling, "eos_id": eos_id}
    memory = {"encoder_tokens_BS": encoder_tokens_BS, "encoder_lengths_B": encoder_lengths_B}
    state = begin(model, params, prompt_BP, lengths_B, keys_B, room=max_tokens, **how, **memory, both_ways=both_ways)
    return advance(model, params, state, max_tokens, **how).tokens_BG
