"""The way through the layer stack, as plain functions over stacked parameters.

A stack function takes `layer_fns`, each (params, x, per_layer) -> (x, output), parameters and per-layer inputs whose
leaves have a leading layer dim L, and returns the last x and the stacked outputs. Layer i is layer_fns[i % P]: the P
kinds of layer, such as those with a window and those without, repeat. The parameters' name tells the stacks of a model
apart.

Letters: L layers, P kinds of layer.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

LayerFn = Callable[[Any, Array, Any], tuple[Array, Any]]


def _keeps_of_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    """The output of cuDNN's attention and the logarithms of its softmax, which JAX gives no name."""
    return primitive.name == "dot_product_attention_fwd_wrapper"


def _keep_attention_and(*names: str) -> Callable[..., bool]:
    policies = jax.checkpoint_policies
    return policies.save_from_both_policies(policies.save_only_these_names("attention_out", *names), _keeps_of_cudnn)


# What the backward pass keeps of a layer instead of computing it again. Each attention names its own output, and what
# its backward pass needs beside it, "attention_out"; the other names are in block.py, latent.py and moe.py.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": _keep_attention_and(),
    "projections": _keep_attention_and("qkv", "mlp_hidden"),
}


def scan_layers(
    layer_fns: Sequence[LayerFn],
    params: Any,
    x: Array,
    per_layer: Any,
    name: str = "layers",
    *,
    remat: str = "none",
    unroll: int = 1,
) -> tuple[Array, Any]:
    """Runs the layers as one `lax.scan`, so that compile time does not grow with depth.

    Args:
        layer_fns: one layer of each kind; if L is no multiple of P, the layers left over follow the loop.
        params: parameters, each leaf (L, ...).
        x: the activations that pass from layer to layer.
        per_layer: further inputs, each leaf (L, ...).
        name: of the parameters; not used.
        remat: a key of `REMAT_POLICIES`: "none" keeps every activation, "full" only each layer's input.
        unroll: layers per iteration of the loop; more compile time for less loop overhead.

    Returns:
        The last activations, and the layers' outputs stacked along a leading L.
    """
    del name
    if remat != "none":
        # Within scan the compiler cannot undo the recomputation, so the costly barrier against that is left out.
        checkpoint = functools.partial(jax.checkpoint, policy=REMAT_POLICIES[remat], prevent_cse=False)
        layer_fns = [checkpoint(layer_fn) for layer_fn in layer_fns]
    P, L = len(layer_fns), jax.tree.leaves(params)[0].shape[0]
    if P == 1:
        return jax.lax.scan(lambda x, layer: layer_fns[0](layer[0], x, layer[1]), x, (params, per_layer), unroll=unroll)

    def body(x: Array, layers: Any) -> tuple[Array, Any]:
        return loop_layers(layer_fns, layers[0], x, layers[1])

    whole = L - L % P
    grouped, rest = (
        jax.tree.map(lambda leaf: leaf[:whole].reshape(whole // P, P, *leaf.shape[1:]), (params, per_layer)),
        jax.tree.map(lambda leaf: leaf[whole:], (params, per_layer)),
    )
    x, outputs = jax.lax.scan(body, x, grouped, unroll=max(1, unroll // P))
    outputs = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), outputs)
    if whole == L:
        return x, outputs
    x, last = loop_layers(layer_fns, rest[0], x, rest[1])
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), outputs, last)


def loop_layers(
    layer_fns: Sequence[LayerFn], params: Any, x: Array, per_layer: Any, name: str = "layers"
) -> tuple[Array, Any]:
    """Runs the layers as an unrolled Python loop, as for analysis: XLA counts the body of a scan only once."""
    del name
    outputs = []
    for i in range(jax.tree.leaves(params)[0].shape[0]):
        layer_params, inputs = jax.tree.map(lambda leaf, i=i: leaf[i], (params, per_layer))
        x, output = layer_fns[i % len(layer_fns)](layer_params, x, inputs)
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
