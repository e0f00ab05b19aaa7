"""Which token follows: pure functions on the logits of the next token.

Letters: B rows, T length, V vocab.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from .attention import MASKED


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the defaults draw from the model's own probabilities.

    The functions of this file apply in the order of the attributes, which is that of `transformers`.

    Attributes:
        repetition_penalty: see `penalize_repetition`; 1 is off.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: see `keep_top_k`; 0 keeps all.
        top_p: see `keep_top_p`; 1 keeps all.
        min_p: see `keep_min_p`; 0 keeps all.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


GREEDY = Sampling(temperature=0.0)


def sample(logits_BV: Array, keys_B: Array, sampling: Sampling, seen_BV: Array | None = None) -> Array:
    """Draws one token a row, each with its own key, so that a row does not depend on the others.

    Args:
        logits_BV: float32.
        keys_B: a JAX key for each row.
        sampling: how.
        seen_BV: the tokens of each row so far, which the repetition penalty needs.

    Returns:
        Token ids (B,), int32.
    """
    if sampling.repetition_penalty != 1.0:
        assert seen_BV is not None, "a repetition penalty needs the tokens so far"
        logits_BV = penalize_repetition(logits_BV, seen_BV, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_k:
        logits_BV = keep_top_k(logits_BV, sampling.top_k)
    if sampling.top_p < 1.0:
        logits_BV = keep_top_p(logits_BV, sampling.top_p)
    if sampling.min_p > 0.0:
        logits_BV = keep_min_p(logits_BV, sampling.min_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def penalize_repetition(logits_BV: Array, seen_BV: Array, penalty: float) -> Array:
    """Divides the positive logits of tokens that were there before, and multiplies the negative ones.

    Keskar et al. 2019 (CTRL, arXiv:1909.05858), section 4.1, which knows no negative ones. Log-probabilities count as
    logits.
    """
    penalized_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return jnp.where(seen_BV, penalized_BV, logits_BV)


def keep_top_k(logits_BV: Array, k: int) -> Array:
    """Keeps the k most likely tokens (Fan et al. 2018, arXiv:1805.04833) and those as likely as the last of them."""
    least = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[0][:, -1:]
    return jnp.where(logits_BV < least, MASKED, logits_BV)


def keep_top_p(logits_BV: Array, p: float) -> Array:
    """Keeps the smallest set of the most likely tokens that has this probability (Holtzman et al. 2020, eq. 2)."""
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    least = jnp.min(jnp.where(before_BV < p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV < least, MASKED, logits_BV)


def keep_min_p(logits_BV: Array, p: float) -> Array:
    """Keeps the tokens with at least this share of the most likely one's probability (arXiv:2407.01082, eq. 2)."""
    least = jnp.max(logits_BV, axis=-1, keepdims=True) + math.log(p)
    return jnp.where(logits_BV < least, MASKED, logits_BV)


def tokens_seen(tokens_BT: Array, is_token_BT: Array, vocab_size: int) -> Array:
    """Which tokens are in each row: booleans (B, V)."""
    B = tokens_BT.shape[0]
    where_BT = jnp.where(is_token_BT, tokens_BT, vocab_size)  # beyond the end: dropped
    return jnp.zeros((B, vocab_size), bool).at[jnp.arange(B)[:, None], where_BT].set(True, mode="drop")
