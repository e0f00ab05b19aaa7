"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

Each matrix of the model is orthogonalised whole, on one device, and the devices share the matrices: where parameters
are divided, or the same on many devices, no product is computed twice.

Letters: M matrices, I inputs, O outputs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from parallel import spread

from .matrices import from_matrices, map_matrices, to_matrices
from .parameters import Matrix

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

    def update(grads: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, state.mu, grads)
        ahead = optax.tree.bias_correction(mu, momentum, count + 1)
        now = optax.tree.bias_correction(grads, momentum, count)
        wanted = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, ahead, now)

        def direction(matrix: Matrix, leaf: Array) -> Array:
            x_MIO = to_matrices(leaf, matrix)
            inputs, outputs = x_MIO.shape[1:]
            orthogonal = spread(functools.partial(orthogonalise, iterations=iterations, eps=eps), x_MIO)
            return from_matrices(max(1, outputs / inputs) ** 0.5 * orthogonal, matrix, leaf)

        return map_matrices(direction, wanted), MuonState(count, mu)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def orthogonalise(x_MIO: Array, *, iterations: int, eps: float) -> Array:
    """Brings all singular values of each matrix near 1 by Newton-Schulz iterations.

    Args:
        x_MIO: the matrices.
        iterations: how many.
        eps: added to the norm.
    """
    if x_MIO.shape[1] > x_MIO.shape[2]:  # the products are of the size of the smaller dim
        return orthogonalise(x_MIO.mT, iterations=iterations, eps=eps).mT
    a, b, c = _COEFFICIENTS
    x = x_MIO / (jnp.linalg.norm(x_MIO, axis=(1, 2), keepdims=True) + eps)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
