"""Which attention a run takes: `config.model.attention`, the rule of "auto", and why a backend is refused.

"auto" takes the first of its platform's list that can do what is asked: on TPUs splash, blocked, plain; on GPUs cudnn,
blocked, plain; elsewhere blocked, plain. Blocked is not taken below `SHORTEST_BLOCKED` tokens, of which two blocks
would have little to leave out. From there on it is taken where all tokens see all too: on CPUs it takes no longer then,
and keeps no probabilities for the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from .attention import attention
from .blocked import blocked_attention
from .choice import Choice, parse_choice
from .config import TransformerConfig
from .cudnn import cudnn_attention
from .splash import BLOCK, LANES, splash_attention

ATTENTIONS: dict[str, dict[str, Any]] = {
    "auto": {},
    "plain": {},
    "blocked": {"block": 0},
    "splash": {"block": BLOCK, "fused_backward": 0},
    "cudnn": {},
}
PREFERRED = {"tpu": ("splash", "blocked", "plain"), "gpu": ("cudnn", "blocked", "plain")}
SHORTEST_BLOCKED = 128
KEY = "config.model.attention"
HOPPER = 9.0  # NVIDIA's compute capability, from which on cuDNN takes larger heads


class Asked(NamedTuple):
    """What is asked of an attention.

    Attributes:
        config: the model.
        platform: of its devices: "tpu", "gpu" or "cpu".
        length: tokens in a row.
        in_order: whether tokens see one another by their places in a row, as `model.attention.attention` has it.
        capability: NVIDIA's compute capability of its devices, see `parallel.compute_capability`; 0 if they have none.
    """

    config: TransformerConfig
    platform: str
    length: int
    in_order: bool = True
    capability: float = 9.0


def choose_attention(text: str, asked: Asked) -> Choice:
    """Reads `config.model.attention`, and chooses where it says "auto".

    Raises:
        ValueError: it is not legal, or the backend that it names cannot do what is asked; it says why.
    """
    choice = parse_choice(KEY, text, ATTENTIONS)
    if choice.kind == "auto":
        kinds = PREFERRED.get(asked.platform, ("blocked", "plain"))
        choices = [Choice(kind, dict(ATTENTIONS[kind])) for kind in kinds]
        return next(one for one in choices if not _why_not(one, asked) and not _too_short(one, asked))
    if reason := _why_not(choice, asked):
        legal = choose_attention("auto", asked).kind
        raise ValueError(f"{KEY}={text!r} cannot be used: {reason}; use {KEY}='auto', which takes {legal!r} here")
    return choice


def names_attention(text: str) -> bool:
    """Whether `config.model.attention` names a backend, and does not leave the choice.

    Raises:
        ValueError: it is not legal.
    """
    return parse_choice(KEY, text, ATTENTIONS).kind != "auto"


def attention_fn_of(choice: Choice, *, packed: bool = True) -> Callable[..., Array]:
    """The function of a choice, the same object for the same arguments; it is for the rows of one device."""
    return _attention_fn(choice.kind, tuple(choice.options.items()), packed)


@functools.cache
def _attention_fn(kind: str, options: tuple[tuple[str, Any], ...], packed: bool) -> Callable[..., Array]:
    more = dict(options)
    if kind == "blocked":
        return functools.partial(blocked_attention, **more)
    if kind == "splash":
        return functools.partial(splash_attention, block=more["block"], fused_backward=bool(more["fused_backward"]))
    return functools.partial(cudnn_attention, packed=packed) if kind == "cudnn" else attention


def _too_short(choice: Choice, asked: Asked) -> bool:
    return choice.kind == "blocked" and asked.length < SHORTEST_BLOCKED


def _why_not(choice: Choice, asked: Asked) -> str:
    """What a backend cannot do of what is asked; "" if it can do all of it."""
    if choice.kind == "blocked" and choice.block < 0:
        return f"block={choice.block} must be 0 or more"
    if choice.kind not in ("splash", "cudnn"):
        return ""
    c, of_platform = asked.config, {"splash": "tpu", "cudnn": "gpu"}[choice.kind]
    if asked.platform != of_platform:
        return f"it runs on a {of_platform}, and the mesh has devices of platform {asked.platform!r}"
    if c.choice("position").kind == "relative":
        return f"it has no bias of relative positions, as config.model.position={c.position!r} asks for"
    if not asked.in_order and c.is_causal:
        return "it lets a token see what stands before it, and in rows of config.data.task a prefix sees itself whole"
    return _splash_lacks(choice, asked) if choice.kind == "splash" else _cudnn_lacks(asked)


def _splash_lacks(choice: Choice, asked: Asked) -> str:
    if choice.block < LANES or choice.block % LANES or choice.fused_backward not in (0, 1):
        return f"block={choice.block} must be a multiple of {LANES}, and fused_backward={choice.fused_backward} 0 or 1"
    if asked.length % LANES:
        return f"config.data.seq_len={asked.length} is not a multiple of {LANES}"
    return ""


def _cudnn_lacks(asked: Asked) -> str:
    c = asked.config
    if not asked.capability:
        return "it is NVIDIA's, and the mesh has GPUs of another maker"
    if c.attention_soft_cap:
        return f"it has no soft cap, and config.model.attention_soft_cap={c.attention_soft_cap}"
    if c.compute_dtype != "bfloat16":
        return f"it computes in bfloat16, and config.model.dtype={c.dtype!r}"
    size, latent = c.size_of_head, c.choice("latent_attention")
    if latent.kind:
        size = max(size + latent.rope, latent.value)
    largest, where = (256, "") if asked.capability >= HOPPER else (128, " where JAX has no GPU from Hopper on at hand")
    if size % 8 or size > largest:
        return f"it has heads of a multiple of 8 and of at most {largest}{where}, not of {size}"
    return ""
