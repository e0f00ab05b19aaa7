"""Adafactor: second moments as the product of a mean for each input and one for each output of a matrix.

Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5. Optax's factors the two largest dims of an array, of which
stacked layers would be one; here each layer is by itself, and what counts as its inputs and outputs is known by name.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from .parameters import matrix_of, parameter_name, stacked_dims

_TINY = 1e-30  # the paper's epsilon 1, added to squares


class AdafactorState(NamedTuple):
    """The state of `scale_by_adafactor`.

    Attributes:
        count: updates made.
        inputs: of matrices, the means of the squares over their outputs; None for other parameters.
        outputs: likewise over their inputs.
        nu: of other parameters, the means of the squares.
    """

    count: Array
    inputs: Any
    outputs: Any
    nu: Any


def scale_by_adafactor(*, decay: float, clip: float, relative: bool) -> optax.GradientTransformation:
    """Divides by the root of factored second moments.

    Args:
        decay: c of the decay 1 - t^-c of the means at update t.
        clip: the largest root mean square of the result for a parameter of a layer.
        relative: whether it is then multiplied by the parameter's own, or 1e-3 if that is more.
    """

    def init(params: Any) -> AdafactorState:
        def mean(skipped: str, path: Any, param: Array) -> Array | None:
            matrix = matrix_of(parameter_name(path))
            if matrix is None:
                return jnp.zeros_like(param) if skipped == "none" else None
            if skipped == "none":
                return None
            return jnp.zeros([size for dim, size in enumerate(param.shape) if dim not in getattr(matrix, skipped)])

        trees = (
            jax.tree_util.tree_map_with_path(lambda *leaf, skipped=skipped: mean(skipped, *leaf), params)
            for skipped in ("outputs", "inputs", "none")
        )
        return AdafactorState(jnp.zeros((), jnp.int32), *trees)

    def update(grads: Any, state: AdafactorState, params: Any = None) -> tuple[Any, AdafactorState]:
        count = state.count + 1
        kept = 1 - count.astype(jnp.float32) ** -decay

        def one(path: Any, g: Array, param: Array, *means: Any) -> tuple[Any, ...]:
            matrix, squares = matrix_of(parameter_name(path)), g * g + _TINY
            if matrix is None:
                nu = kept * means[2] + (1 - kept) * squares
                direction, new = g * jax.lax.rsqrt(nu), (None, None, nu)
            else:
                of_inputs = kept * means[0] + (1 - kept) * jnp.mean(squares, matrix.outputs)
                of_outputs = kept * means[1] + (1 - kept) * jnp.mean(squares, matrix.inputs)
                wide_inputs = jnp.expand_dims(of_inputs, matrix.outputs)
                mean = jnp.mean(wide_inputs, matrix.inputs, keepdims=True)
                direction = g * jax.lax.rsqrt(wide_inputs / mean)
                direction *= jax.lax.rsqrt(jnp.expand_dims(of_outputs, matrix.inputs))
                new = (of_inputs, of_outputs, None)
            name = parameter_name(path)
            direction /= jnp.maximum(1.0, layer_rms(name, direction) / clip)
            if relative:
                direction *= jnp.maximum(layer_rms(name, param), 1e-3)
            return direction, *new

        none = lambda node: node is None
        flat, tree = jax.tree_util.tree_flatten_with_path(grads)
        others = (jax.tree.leaves(other, is_leaf=none) for other in (params, *state[1:]))
        results = [one(path, g, *more) for (path, g), *more in zip(flat, *others, strict=True)]
        direction, *means = (jax.tree.unflatten(tree, column) for column in zip(*results, strict=True))
        return direction, AdafactorState(count, *means)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def layer_rms(name: str, array: Array) -> Array:
    """The root mean square of a parameter, or of what is shaped like it, of each layer by itself, to broadcast."""
    stacked = stacked_dims(name, array.ndim)
    dims = tuple(dim for dim in range(array.ndim) if dim not in stacked)
    return jnp.sqrt(jnp.mean(array * array, dims, keepdims=True))


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Gives the direction of each layer's parameter the parameter's norm (You et al. 2020, arXiv:1904.00962, alg. 2).

    Where one of the two is zero the direction stays. Optax's takes the norm over all stacked layers.
    """

    def scaled(path: Any, direction: Array, param: Array) -> Array:
        of_param, of_direction = (layer_rms(parameter_name(path), array) for array in (param, direction))
        is_zero = (of_param == 0) | (of_direction == 0)
        return direction * jnp.where(is_zero, 1.0, of_param / jnp.where(is_zero, 1.0, of_direction))

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates, params))
