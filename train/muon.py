"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

Each matrix of the model is orthogonalised whole, on one device, and the devices share the matrices: where parameters
are divided, or the same on many devices, no product is computed twice.

Letters: m matrices, I inputs, O outputs.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from parallel import spread

from .matrices import Specs, hidden_matrix, num_stacked
from .parameters import parameter_name

# Of the quintic a x + b x^3 + c x^5, which brings singular values to between 0.7 and 1.2, the small ones fast.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class MuonState(NamedTuple):
    """The state of `scale_by_muon`.

    Attributes:
        count: updates made.
        mu: the mean of the gradients.
    """

    count: Array
    mu: Any


def scale_by_muon(*, momentum: float, iterations: int, eps: float) -> optax.GradientTransformation:
    """Nesterov's momentum, orthogonalised, times sqrt(max(1, outputs / inputs)).

    Args:
        momentum: decay of the mean of the gradients.
        iterations: of Newton-Schulz.
        eps: added to the norm that the first iteration divides by.

    Returns:
        A transformation of trees of hidden matrices.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: Any, state: MuonState, params: Any = None, *, specs: Specs | None = None, **extra: Any
    ) -> tuple[Any, MuonState]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, state.mu, grads)
        ahead = optax.tree.bias_correction(mu, momentum, count + 1)
        now = optax.tree.bias_correction(grads, momentum, count)
        wanted = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, ahead, now)

        def direction(path: Any, leaf: Array) -> Array:
            matrix = hidden_matrix(path)
            inputs, outputs = (math.prod(leaf.shape[dim] for dim in dims) for dims in (matrix.inputs, matrix.outputs))

            def one_by_one(x: Array) -> Array:
                x_mIO = x.reshape(-1, inputs, outputs)
                return orthogonalise(x_mIO, iterations=iterations, eps=eps).reshape(x.shape)

            spec = specs[parameter_name(path)] if specs is not None else None
            scale = max(1, outputs / inputs) ** 0.5
            return scale * spread(one_by_one, leaf, num_stacked=num_stacked(matrix), spec=spec)

        return jax.tree_util.tree_map_with_path(direction, wanted), MuonState(count, mu)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def orthogonalise(x_mIO: Array, *, iterations: int, eps: float) -> Array:
    """Brings all singular values of each matrix near 1 by Newton-Schulz iterations.

    Args:
        x_mIO: the matrices.
        iterations: how many.
        eps: added to the norm.
    """
    if x_mIO.shape[1] > x_mIO.shape[2]:  # the products are of the size of the smaller dim
        return orthogonalise(x_mIO.mT, iterations=iterations, eps=eps).mT
    a, b, c = _COEFFICIENTS
    x = x_mIO / (jnp.linalg.norm(x_mIO, axis=(1, 2), keepdims=True) + eps)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
