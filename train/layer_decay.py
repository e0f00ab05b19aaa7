"""Smaller learning rates for lower layers, whose features a new task changes least."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from model.choice import parse_choice
from model.choices import CHOICES

from .parameters import parameter_name

# Names of what turns tokens or pixels into the first layer's input; those of an encoder begin with "encoder_".
_EMBEDDINGS = ("embedding", "embedding_norm", "positions", "token_types", "relative_bias", "patches", "first_token")
_EMBEDDINGS += ("value_embedding",)


def scale_by_layer(config: Any) -> optax.GradientTransformation:
    """Multiplies updates by `layer_factor` (Clark et al. 2020, arXiv:2003.10555, appendix A); it has no state.

    Args:
        config: the whole config.

    Raises:
        ValueError: the decay is out of range.
    """
    decay = config.optimizer.layer_decay
    if not 0 < decay <= 1:
        raise ValueError(f"config.optimizer.layer_decay={decay} must be above 0 and at most 1, which is none")
    if decay == 1:
        return optax.identity()
    stacks = stack_sizes(config)

    def scaled(path: tuple[Any, ...], update: Array) -> Array:
        factor = layer_factor(parameter_name(path), decay, stacks)
        return update * jnp.reshape(factor, jnp.shape(factor) + (1,) * (update.ndim - jnp.ndim(factor)))

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))


def stack_sizes(config: Any) -> dict[str, int]:
    """The model's stacks of layers in the order in which a token passes them, and their numbers of layers."""
    c = config.model
    architecture = parse_choice("config.model.architecture", c.architecture, CHOICES["architecture"])
    encoder = architecture.options.get("encoder_layers", 0) or c.num_layers
    encoder = encoder if architecture.kind == "encoder_decoder" else 0
    sizes = {"encoder_layers": encoder, "dense_layers": c.num_dense_layers, "layers": c.num_layers - c.num_dense_layers}
    return {name: size for name, size in sizes.items() if size}


def layer_factor(name: str, decay: float, stacks: dict[str, int]) -> Array | float:
    """The factor of a parameter's learning rate.

    Of L layers, layer i from 0 has decay^(L - i), the embeddings decay^(L + 1), and what follows the layers 1. An
    encoder's layers count before its decoder's.

    Args:
        name: of the parameter.
        decay: from one layer to the one before it.
        stacks: of `stack_sizes`.

    Returns:
        A number, or for stacked layers a vector of one for each.
    """
    total, first = sum(stacks.values()), 0
    top, *_ = name.split("/")
    for stack, size in stacks.items():
        if top == stack:
            return jnp.asarray(decay, jnp.float32) ** (total - first - jnp.arange(size))
        first += size
    if top.removeprefix("encoder_") in _EMBEDDINGS:
        return decay ** (total + 1)
    if top == "encoder_final_norm":  # with the encoder's last layer
        return decay ** (total - stacks["encoder_layers"] + 1)
    return 1.0
