"""What of a config's step does not depend on the mesh, taken from JAX once, so that many meshes are cheap.

A mesh divides an array by its logical axes and the rules; here these are kept beside each shape, and what a device
holds is a quotient.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from model import TransformerConfig
from parallel import abstract_mesh
from parallel.sharding import Rules

from .compose import make_model, rules_of
from .distill import teacher_config
from .flops import OF_TOKENS, lengths_of, step_work
from .moments import is_part, spec_of_part
from .objective import chunk_of, objective_name
from .parameters import matrix_of, parameter_name
from .state import abstract_state, all_axes, logical_axes


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of the train state.

    Attributes:
        name: of the parameter that it is, or is a moment of; "" of neither.
        shape: of the whole array.
        axes: the logical axes of its dims, in their order; () where nothing divides it.
        itemsize: bytes of an element.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """Elements of the whole array."""
        return math.prod(self.shape)

    @property
    def in_layers(self) -> bool:
        """Whether it has a leading dim of layers."""
        return self.name.split("/")[0].endswith("layers")

    @property
    def is_matrix_of_layers(self) -> bool:
        """Whether matmuls of the layers read it."""
        return self.in_layers and not any(part in self.name for part in ("norm", "/b_", "router", "value_mix"))


@dataclasses.dataclass(frozen=True)
class Workload:
    """A config's step, whatever it runs on.

    Attributes:
        model: its shape.
        params: the parameters that are trained.
        moments: the optimizer's state.
        fixed: parameters of the model that a step reads and does not change.
        teacher_params: those of the model that a distilled one learns from.
        rules: from logical axes to mesh axes.
        rows: of the global batch.
        length: tokens of a row; of an encoder-decoder those of its decoder.
        encoder_length: tokens that its encoder reads; 0 without one.
        objective: a key of `train.objective.OBJECTIVES`; of a distilled one, what the student learns besides.
        chunk: positions of a row whose logits are made at a time; 0 is all.
        teacher: the shape of the model that a distilled one learns from.
        tokens: of a step, padding and those of an encoder included.
        flops: of a step, all devices together, as MFU counts them (`train.flops.step_work`).
    """

    model: TransformerConfig
    params: tuple[Leaf, ...]
    moments: tuple[Leaf, ...]
    fixed: tuple[Leaf, ...]
    teacher_params: tuple[Leaf, ...]
    rules: Rules
    rows: int
    length: int
    encoder_length: int
    objective: str
    chunk: int
    teacher: TransformerConfig | None
    tokens: int
    flops: float

    @property
    def has_logits(self) -> bool:
        """Whether the objective is over the vocabulary."""
        return self.objective in OF_TOKENS

    @property
    def itemsize(self) -> int:
        """Bytes of an activation."""
        return 2 if self.model.compute_dtype == "bfloat16" else 4

    @functools.cached_property
    def divides_length(self) -> bool:
        """Whether "tensor" divides the residual's length."""
        return "tensor" in dict(self.rules)["residual_length"]

    @functools.cached_property
    def _mesh_axes(self) -> dict[tuple[Any, ...], tuple[str, ...]]:
        """What is found once for each (logical axes, of)."""
        return {}

    def axes_of(self, leaf: Leaf, of: str = "") -> tuple[str, ...]:
        """The mesh axes that divide a leaf, or its "gradient" or "moment"."""
        key = (leaf.axes, of)
        if key not in self._mesh_axes:
            table = dict(self.rules)
            found = (axis for name in leaf.axes if name is not None for axis in table.get(f"{name}/{of}", table[name]))
            self._mesh_axes[key] = tuple(found)
        return self._mesh_axes[key]

    def shard_size(self, leaf: Leaf, sizes: Mapping[str, int], of: str = "") -> int:
        """Elements of a leaf, or of its "gradient" or "moment", that a device holds."""
        return leaf.size // math.prod(sizes[axis] for axis in self.axes_of(leaf, of))

    @functools.cached_property
    def _grouped(self) -> dict[tuple[str, str], list[tuple[tuple[str, ...], int]]]:
        """What is found once for each (part, of): bytes by the mesh axes that divide them."""
        return {}

    def shard_bytes(self, part: str, sizes: Mapping[str, int], of: str = "") -> int:
        """Bytes of a part of the state that a device holds.

        Args:
            part: "params", "moments", "fixed", "teacher_params", or "matrices", the layers' matrices of all of them
                at 1 byte an element.
            sizes: of the mesh axes.
            of: "gradient" or "moment", if it is that of the part.
        """
        if (part, of) not in self._grouped:
            groups: dict[tuple[str, ...], int] = {}
            for leaf in self._leaves(part):
                axes = self.axes_of(leaf, of)
                groups[axes] = groups.get(axes, 0) + leaf.size * (1 if part == "matrices" else leaf.itemsize)
            self._grouped[part, of] = [*groups.items()]
        found = self._grouped[part, of]
        return sum(size // math.prod([sizes[axis] for axis in axes]) for axes, size in found)

    def _leaves(self, part: str) -> tuple[Leaf, ...]:
        if part == "matrices":
            return tuple(leaf for leaf in (*self.params, *self.fixed, *self.teacher_params) if leaf.is_matrix_of_layers)
        return getattr(self, part)


def workload_of(config: Any) -> Workload:
    """Traces the initialisation of a config; it takes about a second, and nothing is computed.

    Raises:
        ValueError: the config is wrong.
    """
    state = abstract_state(config, abstract_mesh())
    trained, base = logical_axes(config)
    names = {path: tuple(spec) for path, spec in jax.tree_util.tree_leaves_with_path(trained, is_leaf=_is_spec)}
    model = make_model(config).config
    if model.image:
        raise ValueError(
            f"config.model.image={config.model.image!r}: the planner counts tokens; plan a model of text, or measure "
            "with --config.train.steps=5"
        )
    tokens, flops = step_work(config)
    length, encoder_length = lengths_of(config)
    teacher = teacher_config(config)
    theirs = {} if teacher is None else dict(jax.tree_util.tree_leaves_with_path(all_axes(teacher), is_leaf=_is_spec))
    return Workload(
        model=model,
        params=_leaves(state.params, names),
        moments=_leaves(state.opt_state, names),
        fixed=_leaves(state.fixed.get("base", {}), dict(jax.tree_util.tree_leaves_with_path(base, is_leaf=_is_spec))),
        teacher_params=_leaves(state.fixed.get("teacher", {}), theirs),
        rules=rules_of(config),
        rows=config.data.batch_size,
        length=length,
        encoder_length=encoder_length,
        objective=objective_name(config),
        chunk=chunk_of(config),
        teacher=None if teacher is None else make_model(teacher).config,
        tokens=tokens,
        flops=flops,
    )


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)


def _leaves(tree: Any, names: Mapping[Any, tuple[str | None, ...]]) -> tuple[Leaf, ...]:
    """The arrays of a tree; one whose path ends like a parameter's is divided as that (`state.abstract_state`).

    Parts of moments are divided by `moments.spec_of_part`, here as if each side of a square were a multiple of the
    sizes of its mesh axes: one that is not is held whole, and counted as divided.
    """
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        start = next((i for i in range(len(path)) if path[i:] in names), len(path))
        name, axes = parameter_name(path[start:]), names.get(path[start:], ())
        kind, matrix = parameter_name(path[start - 1 : start]), matrix_of(name)
        if is_part(kind) and matrix is not None:
            spec = spec_of_part(kind, matrix, leaf.shape, PartitionSpec(*axes), dict.fromkeys(filter(None, axes), 1))
            axes = tuple(axis for entry in spec for axis in ((entry,) if not isinstance(entry, tuple) else entry))
        found.append(Leaf(name, leaf.shape, axes, np.dtype(leaf.dtype).itemsize))
    return tuple(found)
