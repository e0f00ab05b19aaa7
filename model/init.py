"""What parameters are at first, and what follows from the width, as `config.model.init` says it.

With "mup" a wider model changes as much in a step as the one of D = `width` does, so that learning rates found there
hold: the maximal update parametrisation (Yang et al. 2022, arXiv:2203.03466, table 8, for Adam and its like). The MLP
and the heads must grow in proportion to D. With m = D / width:

| parameters | initial standard deviation | learning rate (`train/width.py`) | factor in the model |
| --- | --- | --- | --- |
| embeddings, positions, first projection of images, norms, biases | as ever, for it does not follow D | 1 | |
| matrices in and after the layers | 1 / sqrt(fan_in), as ever | 1 / m | attention logits sqrt(h) / H |
| head, tied or not | 1 / sqrt(width), or the embedding's | 1 | logits 1 / m |
| router, classifier: the same, by lemma J.1, without a factor | 1 / m of that at `width` | 1 / m | |

Letters: D model, H head dim, h that of the model of `width`.
"""

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


def head_init(c: TransformerConfig) -> Initializer:
    """Of a head of its own, whose logits have a factor (`TransformerConfig.as_standard`)."""
    return nn.initializers.normal((c.d_model / c.width_ratio) ** -0.5)


def router_init(c: TransformerConfig) -> Initializer:
    """Of the router, which maps the width to a number of experts that does not grow with it."""
    return nn.initializers.normal((c.d_model / c.width_ratio) ** -0.5 / c.width_ratio)


def classifier_std(c: TransformerConfig) -> float:
    """Of the classifier, likewise."""
    return c.choice("init").std / c.width_ratio
