"""The coordinate check of muP: how far training moves activations, at several widths.

Yang et al. 2022, arXiv:2203.03466, appendix D.1.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from model import Transformer, loop_layers
from train import make_model
from train.optimizer import make_optimizer

HEAD_DIM = 16


def of_width(config: ConfigDict, width: int) -> ConfigDict:
    """A copy of the config whose model has another width, with more heads rather than larger ones."""
    config = config.copy_and_resolve_references()
    heads = width // HEAD_DIM
    config.model.update(d_model=width, num_heads=heads, num_kv_heads=heads, d_mlp=4 * width)
    return config


def changes(config: ConfigDict, *, steps: int) -> dict[str, float]:
    """How much the output of each block, and the logits, change in some steps on one batch: means of absolute values.

    The whole experiment is one program, as what it takes is tracing and compiling.

    Args:
        config: of a decoder of tokens.
        steps: of training.
    """
    optimizer = make_optimizer(config)
    shape = (config.data.batch_size, config.data.seq_len + 1)
    tokens = np.random.default_rng(0).integers(4, config.data.vocab_size, size=shape).astype(np.int32)
    model = Transformer(make_model(config).config)

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        seen = _activations(model, params, tokens[:, :-1], config.data.vocab_size)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(seen["logits"], tokens[:, 1:])), seen

    def step(state: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], dict[str, Array]]:
        params, opt_state = state
        grads, seen = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), seen

    @jax.jit
    def run() -> dict[str, Array]:
        params = nn.unbox(model.init(jax.random.key(config.seed), tokens[:1, :1])["params"])
        _, seen = jax.lax.scan(step, (params, optimizer.init(params)), length=steps + 1)
        return jax.tree.map(lambda x: jnp.mean(jnp.abs(x[-1] - x[0])), seen)

    return {name: float(change) for name, change in run().items()}


def _activations(model: Transformer, params: Any, tokens_BT: Any, vocab_size: int) -> dict[str, Array]:
    """The output of each block, and the logits without padding."""
    seen: dict[str, Array] = {}

    def stack(layer_fns: Any, params: Any, x: Array, per_layer: Any, name: str) -> tuple[Array, Any]:
        def seeing(layer_fn: Any) -> Any:
            def layer(params: Any, x: Array, per_layer: Any) -> tuple[Array, Any]:
                x, output = layer_fn(params, x, per_layer)
                seen[f"block {len(seen)}"] = x
                return x, output

            return layer

        return loop_layers([seeing(layer_fn) for layer_fn in layer_fns], params, x, per_layer, name)

    logits_BTV: Any = model.clone(stack_fn=stack).apply({"params": params}, tokens_BT)
    return seen | {"logits": logits_BTV[..., :vocab_size]}
