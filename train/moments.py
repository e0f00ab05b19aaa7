"""Where the parts of an optimizer's moments live that have not the shape of their parameter."""

import math
from collections.abc import Mapping
from typing import Any

from jax.sharding import PartitionSpec

from .parameters import Matrix

_PARTS = ("inputs", "outputs", "left", "right", "left_basis", "right_basis")  # names of trees of such parts


def is_part(kind: str) -> bool:
    """Whether a tree of an optimizer's state, by its name, has parts of moments; their shapes need not tell."""
    return kind in _PARTS


def spec_of_part(
    kind: str, matrix: Matrix, shape: tuple[int, ...], spec: PartitionSpec, sizes: Mapping[str, int]
) -> PartitionSpec:
    """The spec of what an optimizer keeps of a matrix's moment, from the moment's own spec.

    Args:
        kind: "inputs" and "outputs" have these dims of the matrix alone (Adafactor); "left" and "right", and what
            begins so, are square, with all inputs or all outputs as one dim, twice (SOAP).
        matrix: what the parameter maps to what.
        shape: of the part.
        spec: of the moment.
        sizes: of the mesh's axes; a side of a square that is no multiple of its axes' sizes stays undivided.
    """
    num_dims = max(matrix.inputs + matrix.outputs) + 1
    axes = [spec[dim] if dim < len(spec) else None for dim in range(num_dims)]
    if kind in ("inputs", "outputs"):
        others = matrix.outputs if kind == "inputs" else matrix.inputs
        return PartitionSpec(*(entry for dim, entry in enumerate(axes) if dim not in others))
    stacked = [axes[dim] for dim in range(num_dims) if dim not in matrix.inputs + matrix.outputs]
    rows, columns = (matrix.inputs, matrix.outputs) if kind.startswith("left") else (matrix.outputs, matrix.inputs)
    divided = []
    for dims in (rows, columns):  # the columns as the other side is, so that no device has more than its share
        names = [name for dim in dims for name in _names(axes[dim])]
        parts = math.prod(sizes[name] for name in names)
        divided.append(tuple(names) if names and shape[-1] % parts == 0 else None)
    return PartitionSpec(*stacked, *divided)


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
