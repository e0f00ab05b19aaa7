"""The head: from the last activations to a number for each token of the vocabulary.

Letters: B batch, T length, D model, V vocab, padded.
"""

import flax.struct
import jax.numpy as jnp
from jax import Array

from .attention import MASKED
from .layers import soft_cap
from .products import contract


@flax.struct.dataclass
class Head:
    """What logits are made from, for whoever does not want all of them at once.

    Attributes:
        x_BTD: the activations that the head reads.
        table_VD: a row for each token of the padded vocabulary, in the compute dtype.
        bias_V: added at last, or None.
        scale: factor of the logits.
        cap: bound on them; 0 is off.
        vocab_size: tokens there are; the logits of the others are masked.
    """

    x_BTD: Array
    table_VD: Array
    bias_V: Array | None
    scale: float = flax.struct.field(pytree_node=False)
    cap: float = flax.struct.field(pytree_node=False)
    vocab_size: int = flax.struct.field(pytree_node=False)

    def logits(self) -> Array:
        """(B, T, V) in float32."""
        logits_BTV = contract(self.x_BTD, self.table_VD, dtype=jnp.float32, transposed=True)
        logits_BTV = soft_cap(logits_BTV * self.scale if self.scale != 1.0 else logits_BTV, self.cap)
        if self.bias_V is not None:
            logits_BTV = logits_BTV + self.bias_V
        V = self.table_VD.shape[0]
        return logits_BTV if self.vocab_size == V else jnp.where(jnp.arange(V) < self.vocab_size, logits_BTV, MASKED)
