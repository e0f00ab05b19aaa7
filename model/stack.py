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
from jax.ad_checkpoint import checkpoint_name

from .remat import remat_policy

LayerFn = Callable[[Any, Array, Any], tuple[Array, Any]]


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
        x: what passes from layer to layer: the activations, and a cache if there is one.
        per_layer: further inputs, each leaf (L, ...).
        name: of the parameters; not used.
        remat: what the backward pass computes again, as `model.remat` reads it: "none" keeps every activation, "full"
            only each layer's input.
        unroll: layers per iteration of the loop; more compile time for less loop overhead.

    Returns:
        The last activations, and the layers' outputs stacked along a leading L.
    """
    del name
    if remat != "none":
        # Within scan the compiler cannot undo the recomputation, so the costly barrier against that is left out.
        checkpoint = functools.partial(jax.checkpoint, policy=remat_policy(remat), prevent_cse=False)
        layer_fns = [checkpoint(_with_named_input(layer_fn)) for layer_fn in layer_fns]
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


def _with_named_input(layer_fn: LayerFn) -> LayerFn:
    """Names the input within what is computed again, so that the named value can be kept in the place of the input."""
    return lambda params, x, per_layer: layer_fn(params, checkpoint_name(x, "layer_input"), per_layer)


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
