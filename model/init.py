"""What parameters are at first, as `config.model.init` says it."""

import flax.linen as nn

from .config import TransformerConfig
from .layers import projection_init

Initializer = nn.initializers.Initializer


def table_init(c: TransformerConfig) -> Initializer:
    """Of embeddings, positions and other vectors that are looked up."""
    return nn.initializers.normal(c.choice("init").std)


def output_init(c: TransformerConfig, *fan_in_dims: int) -> Initializer:
    """Of projections that write to the residual stream, of which each layer has two."""
    if c.choice("init").zero_outputs:
        return nn.initializers.zeros
    return projection_init(*fan_in_dims, num_residual_writes=2 * c.num_layers)
