"""Beam search: the sequences of highest probability that a search of fixed width finds.

It follows `transformers` in when a search ends and how lengths are weighed, and gives the same beams.

Letters: B batch, P prompt length, S length of the encoder's input, N beams, C = 2N candidates, G generated length,
V vocab, L layers.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from .cache import KVCache
from .generate import read_prompts, read_token
from .sampling import penalize_repetition, tokens_seen
from .transformer import Transformer

NOTHING = -1e9  # score of a place that no sequence has taken


@dataclasses.dataclass(frozen=True)
class Beams:
    """How a search goes.

    Attributes:
        beams: sequences N that are followed, and found.
        length_penalty: a finished sequence of n tokens, its end included, scores its log-probability / n^length_penalty
            (Wu et al. 2016, arXiv:1609.08144, section 7, has another form of it); above 0 favours long ones.
        early_stopping: "true" ends a row when N sequences have finished; "false", when besides the best one that goes
            on would score less than all of these if it ended now; "never", or at any length up to the last.
        repetition_penalty: see `penalize_repetition`, here of log-probabilities; 1 is off.
    """

    beams: int = 4
    length_penalty: float = 1.0
    early_stopping: str = "false"
    repetition_penalty: float = 1.0


EARLY_STOPPING = ("false", "true", "never")


class Search(struct.PyTreeNode):
    """A search under way.

    Attributes:
        count: tokens written.
        tokens_BNG: sequences that go on, the most probable first.
        scores_BN: their log-probabilities.
        parents_BN: which of the last step's sequences each has grown from.
        seen_BNV: their tokens, if the repetition penalty needs them.
        found_BNG: the best finished sequences, the best first.
        found_scores_BN: their log-probabilities by length.
        is_found_BN: whether there is one.
        is_open_B: whether a better one may still come.
    """

    count: Array
    tokens_BNG: Array
    scores_BN: Array
    parents_BN: Array
    seen_BNV: Array | None
    found_BNG: Array
    found_scores_BN: Array
    is_found_BN: Array
    is_open_B: Array


@functools.partial(jax.jit, static_argnames=("model", "room", "beams", "both_ways"))
def beam_search(
    model: Transformer,
    params: Any,
    prompt_BP: Array,
    lengths_B: Array,
    max_tokens: Array | int,
    *,
    room: int,
    beams: Beams,
    eos_id: Array | int = -1,
    encoder_tokens_BS: Array | None = None,
    encoder_lengths_B: Array | None = None,
    both_ways: bool = False,
) -> tuple[Array, Array]:
    """Finds the likeliest continuations of each prompt; rows do not depend on one another.

    Args:
        model: the Transformer.
        params: its parameters.
        prompt_BP: token ids, padded on the right; of an encoder-decoder, what the decoder begins with.
        lengths_B: tokens in each prompt; a row of none only fills up the batch, and its search is over at once.
        max_tokens: where the sequences end that have not done so before.
        room: tokens G that can be written at most; the program is compiled for it, and runs for any `max_tokens` up to
            it.
        beams: how the search goes.
        eos_id: ends a sequence; the rest of it is filled with this id. -1 never ends one.
        encoder_tokens_BS: what an encoder-decoder's encoder reads, padded on the right.
        encoder_lengths_B: tokens in each row of it; None is S.
        both_ways: see `generate`.

    Returns:
        Sequences (B, N, G), int32, the best first, and their scores (B, N).
    """
    (B, P), N = prompt_BP.shape, beams.beams
    memory = (encoder_tokens_BS, encoder_lengths_B)
    logits_BV, cache = read_prompts(model, params, prompt_BP, lengths_B, room, *memory, both_ways=both_ways)
    cache, V = _repeated(cache, N), logits_BV.shape[-1]
    seen_BNV = None
    if beams.repetition_penalty != 1.0:
        seen_BV = tokens_seen(prompt_BP, jnp.arange(P) < lengths_B[:, None], V)
        seen_BNV = jnp.broadcast_to(seen_BV[:, None], (B, N, V))
    empty_BNG = jnp.full((B, N, room), eos_id, jnp.int32)
    # All N are the same prompt: one is enough to grow from.
    scores_BN = jnp.broadcast_to(jnp.where(jnp.arange(N) == 0, 0.0, NOTHING), (B, N))
    search = Search(
        count=jnp.zeros((), jnp.int32),
        tokens_BNG=empty_BNG,
        scores_BN=scores_BN,
        parents_BN=jnp.zeros((B, N), jnp.int32),
        seen_BNV=seen_BNV,
        found_BNG=empty_BNG,
        found_scores_BN=jnp.full((B, N), NOTHING),
        is_found_BN=jnp.zeros((B, N), bool),
        is_open_B=lengths_B > 0,
    )
    grow = functools.partial(_grow, max_tokens=max_tokens, beams=beams, eos_id=eos_id)
    search = grow(search, jnp.broadcast_to(logits_BV[:, None], (B, N, V)))

    def unfinished(carry: tuple[Search, KVCache]) -> Array:
        search, _ = carry
        return (search.count < max_tokens) & jnp.any(search.is_open_B)

    def step(carry: tuple[Search, KVCache]) -> tuple[Search, KVCache]:
        search, cache = carry
        last_BN = jax.lax.dynamic_index_in_dim(search.tokens_BNG, search.count - 1, axis=2, keepdims=False)
        positions_BN = jnp.broadcast_to((lengths_B.astype(jnp.int32) + search.count - 1)[:, None], (B, N))
        cache = _reordered(cache, search.parents_BN)
        logits_RV, cache = read_token(model, params, last_BN.reshape(-1), positions_BN.reshape(-1), cache)
        return grow(search, logits_RV.reshape(B, N, V)), cache

    search, _ = jax.lax.while_loop(unfinished, step, (search, cache))
    return search.found_BNG, search.found_scores_BN


def _grow(search: Search, logits_BNV: Array, *, max_tokens: Array | int, beams: Beams, eos_id: Array | int) -> Search:
    """Adds a token to every sequence: of the C best results, those that end are kept, and N of the others go on."""
    (B, N, V), i = logits_BNV.shape, search.count
    log_probs_BNV = jax.nn.log_softmax(logits_BNV, axis=-1)
    if search.seen_BNV is not None:
        log_probs_BNV = penalize_repetition(log_probs_BNV, search.seen_BNV, beams.repetition_penalty)
    totals_BNV = search.scores_BN[:, :, None] + log_probs_BNV
    # Each sequence can end in one way only: of 2N candidates at least N go on.
    scores_BC, where_BC = jax.lax.top_k(totals_BNV.reshape(B, N * V), min(2 * N, N * V))
    parents_BC, tokens_BC = where_BC // V, (where_BC % V).astype(jnp.int32)
    texts_BCG = jax.lax.dynamic_update_slice_in_dim(
        _take(search.tokens_BNG, parents_BC), tokens_BC[:, :, None], i, axis=2
    )
    ends_BC = (tokens_BC == eos_id) | (i + 1 >= max_tokens)

    running_BC = jnp.where(ends_BC, scores_BC + NOTHING, scores_BC)
    running_BN, chosen_BN = jax.lax.top_k(running_BC, N)
    seen_BNV, parents_BN = search.seen_BNV, _take(parents_BC, chosen_BN).astype(jnp.int32)
    if seen_BNV is not None:
        last_BN1 = _take(tokens_BC, chosen_BN)[:, :, None]
        seen_BNV = _take(seen_BNV, parents_BN) | (jnp.arange(V) == last_BN1)
    search = search.replace(
        count=i + 1,
        tokens_BNG=_take(texts_BCG, chosen_BN),
        scores_BN=running_BN,
        parents_BN=parents_BN,
        seen_BNV=seen_BNV,
    )
    return _keep(search, texts_BCG, scores_BC, ends_BC, max_tokens=max_tokens, beams=beams)


def _keep(
    search: Search, texts_BCG: Array, scores_BC: Array, ends_BC: Array, *, max_tokens: Array | int, beams: Beams
) -> Search:
    """Keeps the best N of the finished sequences and the candidates that end; tells whether better ones may come."""
    N, count = beams.beams, search.count.astype(jnp.float32)
    # A candidate that ends counts if it is among the N best, and stems from a prompt rather than from an empty place.
    counts_BC = ends_BC & (jnp.arange(ends_BC.shape[1]) < N) & (scores_BC > NOTHING / 2) & search.is_open_B[:, None]
    by_length_BC = jnp.where(counts_BC, scores_BC / count**beams.length_penalty, NOTHING)
    scores_BN, kept_BN = jax.lax.top_k(jnp.concatenate((search.found_scores_BN, by_length_BC), axis=1), N)
    is_found_BN = _take(jnp.concatenate((search.is_found_BN, counts_BC), axis=1), kept_BN)

    length = count
    if beams.early_stopping == "never" and beams.length_penalty > 0.0:
        length = jnp.asarray(max_tokens, jnp.float32)
    best_to_come_B = search.scores_BN[:, 0] / length**beams.length_penalty
    is_full_B = jnp.all(is_found_BN, axis=1)
    is_done_B = is_full_B & (best_to_come_B <= jnp.min(scores_BN, axis=1))
    return search.replace(
        found_BNG=_take(jnp.concatenate((search.found_BNG, texts_BCG), axis=1), kept_BN),
        found_scores_BN=scores_BN,
        is_found_BN=is_found_BN,
        is_open_B=search.is_open_B & ~(is_full_B if beams.early_stopping == "true" else is_done_B),
    )


def _take(values: Array, index_BN: Array) -> Array:
    """Picks along the second dim, row by row."""
    return jax.vmap(lambda row, index_N: row[index_N])(values, index_BN)


def _repeated(cache: KVCache, N: int) -> KVCache:
    """The cache with N equal rows in the place of each: (B * N) rows."""

    def repeat(cache: KVCache) -> KVCache:
        return cache.replace(
            layers=jax.tree.map(lambda leaf: jnp.repeat(leaf, N, axis=1), cache.layers),
            positions_BS=jnp.repeat(cache.positions_BS, N, axis=0),
            segment_ids_BS=jnp.repeat(cache.segment_ids_BS, N, axis=0),
        )

    memory = None if cache.memory is None else repeat(cache.memory)
    return repeat(cache).replace(memory=memory)


def _reordered(cache: KVCache, parents_BN: Array) -> KVCache:
    """The cache with each sequence's keys and values in its place; positions and the memory are the same for all."""
    B, N = parents_BN.shape

    def reorder(leaf: Array) -> Array:
        by_beam = leaf.reshape(leaf.shape[0], B, N, *leaf.shape[2:])
        picked = jax.vmap(lambda row_LN, index_N: row_LN[:, index_N], (1, 0), 1)(by_beam, parents_BN)
        return picked.reshape(leaf.shape)

    return cache.replace(layers=jax.tree.map(reorder, cache.layers))
