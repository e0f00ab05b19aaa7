"""Parameters seen as matrices, for optimizers that treat them as such.

Letters: I inputs, O outputs; "..." numbers matrices: stacked layers, experts.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax import Array
from jax.sharding import PartitionSpec

from .parameters import Matrix, matrix_of, parameter_name

Specs = Mapping[str, PartitionSpec]  # parameter's name -> how its moments are divided


def num_stacked(matrix: Matrix) -> int:
    """How many dims of a hidden matrix number it; its inputs and then its outputs follow them."""
    first = matrix.inputs[0]
    assert matrix.inputs + matrix.outputs == tuple(range(first, first + len(matrix.inputs + matrix.outputs)))
    return first


def to_matrices(param: Array, matrix: Matrix) -> Array:
    """A parameter, or what is shaped like it, as (..., I, O)."""
    sizes = (math.prod(param.shape[dim] for dim in dims) for dims in (matrix.inputs, matrix.outputs))
    return param.reshape(*param.shape[: num_stacked(matrix)], *sizes)


def hidden_matrix(path: tuple[Any, ...]) -> Matrix:
    """What the hidden matrix at a path of the tree maps to what."""
    matrix = matrix_of(parameter_name(path))
    assert matrix is not None
    return matrix


def apart(hidden: optax.GradientTransformation, rest: optax.GradientTransformation) -> optax.GradientTransformation:
    """One optimizer for the matrices that `parameters.MATRICES` calls hidden, another for all other parameters."""

    def of(path: tuple[Any, ...], _: Any) -> str:
        matrix = matrix_of(parameter_name(path))
        return "hidden" if matrix and matrix.hidden else "rest"

    labels = lambda params: jax.tree_util.tree_map_with_path(of, params)
    return optax.partition({"hidden": hidden, "rest": rest}, labels)
