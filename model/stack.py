"""The way through the layer stack, as plain functions over stacked parameters.

A stack function takes `layer_fn(params, x, per_layer) -> (x, output)`, parameters and per-layer inputs whose leaves
have a leading layer dim L, and returns the last x and the stacked outputs. `parallel` supplies pipelined ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

LayerFn = Callable[[Any, Array, Any], tuple[Array, Any]]

# What the backward pass keeps of a layer instead of computing it again; names are set in model/transformer.py.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention_out"),
    "projections": jax.checkpoint_policies.save_only_these_names("qkv", "attention_out", "mlp_hidden"),
}


def scan_layers(
    layer_fn: LayerFn, params: Any, x: Array, per_layer: Any, *, remat: str = "none", unroll: int = 1
) -> tuple[Array, Any]:
    """Runs the layers as one `lax.scan`, so that compile time does not grow with depth.

    Args:
        layer_fn: one layer.
        params: parameters, each leaf (L, ...).
        x: the activations that pass from layer to layer.
        per_layer: further inputs, each leaf (L, ...).
        remat: a key of `REMAT_POLICIES`: "none" keeps every activation, "full" only each layer's input.
        unroll: layers per iteration of the loop; more compile time for less loop overhead.

    Returns:
        The last activations, and the layers' outputs stacked along a leading L.
    """
    if remat != "none":
        # Within scan the compiler cannot undo the recomputation, so the costly barrier against that is left out.
        layer_fn = jax.checkpoint(layer_fn, policy=REMAT_POLICIES[remat], prevent_cse=False)

    def body(x, layer):
        return layer_fn(layer[0], x, layer[1])

    return jax.lax.scan(body, x, (params, per_layer), unroll=unroll)


def loop_layers(layer_fn: LayerFn, params: Any, x: Array, per_layer: Any) -> tuple[Array, Any]:
    """Runs the layers as an unrolled Python loop, for analysis: XLA counts the body of a scan only once."""
    outputs = []
    for i in range(jax.tree.leaves(params)[0].shape[0]):
        layer_params, inputs = jax.tree.map(lambda leaf, i=i: leaf[i], (params, per_layer))
        x, output = layer_fn(layer_params, x, inputs)
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
