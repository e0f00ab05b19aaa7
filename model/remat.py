"""What the backward pass keeps of a layer instead of computing it again, and what of that waits in the host's memory.

A policy is the name of one of `REMAT_POLICIES`, or a list of its own: "names,keep=qkv,offload=layer_input+mlp_in". What
is offloaded is copied to the host while the forward pass goes on, and back in time for the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from .choice import Choice, parse_choice

KEY = "config.model.remat"
# Names are set where the values are made: "layer_input" in `model.stack`, "attention_out" in the attentions, which name
# with their output what else their backward pass needs, the others in `model.block`, `model.latent` and `model.moe`.
NAMES = ("layer_input", "qkv", "attention_out", "attention_sum", "mlp_gate", "mlp_in", "mlp_hidden")
_NAMED = {"attention": ("attention_out",), "projections": ("qkv", "attention_out", "mlp_hidden")}
# cuDNN's attention: its output and the logarithms of its softmax, which JAX gives no name.
_CUDNN = "dot_product_attention_fwd_wrapper"


def _policy_of_names(keep: tuple[str, ...], offload: tuple[str, ...] = ()) -> Callable[..., Any]:
    policies = jax.checkpoint_policies
    if offload:
        of_names = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=keep,
            names_which_can_be_offloaded=offload,
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        of_names = policies.save_only_these_names(*keep)
    if "attention_out" not in keep + offload:
        return of_names
    # cuDNN's stays on the device.
    return lambda primitive, *args, **params: primitive.name == _CUDNN or of_names(primitive, *args, **params)


REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    **{kind: _policy_of_names(names) for kind, names in _NAMED.items()},
}
_LEGAL: dict[str, dict[str, Any]] = {kind: {} for kind in REMAT_POLICIES}
_LEGAL["names"] = {"keep": "", "offload": ""}


def remat_choice(text: str) -> Choice:
    """Reads `config.model.remat`.

    Raises:
        ValueError: it is not legal; it says what is.
    """
    choice = parse_choice(KEY, text, _LEGAL)
    if choice.kind != "names":
        return choice
    keep, offload = _split(choice.keep), _split(choice.offload)
    for name in (*keep, *offload):
        if name not in NAMES:
            raise ValueError(f"{KEY}={text!r}: {name!r} is no name; use some of {', '.join(NAMES)}, joined by +")
    if both := set(keep) & set(offload):
        raise ValueError(f"{KEY}={text!r}: {both.pop()!r} is to be kept and to be offloaded; name it once")
    if not keep and not offload:
        raise ValueError(
            f"{KEY}={text!r} keeps nothing; use 'full', or keep=... or offload=... with {', '.join(NAMES)}"
        )
    return choice


def kept_names(text: str) -> tuple[str, ...]:
    """The names that a policy keeps, on the device or on the host; () of a policy without names."""
    choice = remat_choice(text)
    return (*_split(choice.keep), *_split(choice.offload)) if choice.kind == "names" else _NAMED.get(choice.kind, ())


@functools.cache
def remat_policy(text: str) -> Callable[..., Any] | None:
    """The policy for `jax.checkpoint`; None if nothing is computed again."""
    choice = remat_choice(text)
    if choice.kind != "names":
        return REMAT_POLICIES[choice.kind]
    return _policy_of_names(_split(choice.keep), _split(choice.offload))


def _split(names: str) -> tuple[str, ...]:
    return tuple(name for name in names.split("+") if name)
