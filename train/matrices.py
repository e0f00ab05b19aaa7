"""Parameters seen as matrices, for optimizers that treat them as such.

Letters: M matrices (stacked layers, experts), I inputs, O outputs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array

from .parameters import Matrix, matrix_of, parameter_name

Params = Any


def to_matrices(param: Array, matrix: Matrix) -> Array:
    """A parameter, or what is shaped like it, as (M, I, O)."""
    order = _order(matrix, param.ndim)
    sizes = [math.prod(param.shape[dim] for dim in dims) for dims in order]
    return param.transpose([dim for dims in order for dim in dims]).reshape(sizes)


def from_matrices(matrices_MIO: Array, matrix: Matrix, like: Array) -> Array:
    """The inverse of `to_matrices`, for a parameter of the shape of `like`."""
    order = [dim for dims in _order(matrix, like.ndim) for dim in dims]
    whole = matrices_MIO.reshape([like.shape[dim] for dim in order])
    return whole.transpose([order.index(dim) for dim in range(like.ndim)])


def _order(matrix: Matrix, num_dims: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    stacked = tuple(dim for dim in range(num_dims) if dim not in matrix.inputs + matrix.outputs)
    return stacked, matrix.inputs, matrix.outputs


def hidden_matrix(path: tuple[Any, ...]) -> Matrix:
    """What the hidden matrix at a path of the tree maps to what."""
    matrix = matrix_of(parameter_name(path))
    assert matrix is not None
    return matrix


def map_matrices(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Maps (matrix, leaf, ...) over trees of hidden matrices."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(hidden_matrix(path), *leaves), tree, *others)


def apart(hidden: optax.GradientTransformation, rest: optax.GradientTransformation) -> optax.GradientTransformation:
    """One optimizer for the hidden matrices, another for embeddings, head, norms, biases and adapters."""

    def of(path: tuple[Any, ...], _: Any) -> str:
        matrix = matrix_of(parameter_name(path))
        return "hidden" if matrix and matrix.hidden else "rest"

    labels = lambda params: jax.tree_util.tree_map_with_path(of, params)  # noqa: E731
    return optax.partition({"hidden": hidden, "rest": rest}, labels)
