"""What each mesh axis costs on paper: the collectives of one train step, from the model's shape.

The counts are those of the papers that the ways of dividing the work come from:

- data: the gradient of each parameter is all-reduced once (Li et al. 2020, arXiv:2006.15704, section 3).
- fsdp: each parameter is gathered for the forward pass and again for the backward one, and its gradient is
  reduce-scattered (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, section 7: 3 times the parameters in all, where data
  parallelism has 2). What has one dim or is small enough to stay whole, such as norms, is all-reduced.
- tensor: a block's two sublayers each all-reduce their output forward and the gradient of their input backward
  (Megatron-LM, Shoeybi et al. 2019, arXiv:1909.08053, section 3, figures 3 and 4); the embedding all-reduces the rows found, and the
  loss, over a divided vocabulary, the maximum and the sums of each token and the gradient of the last activations.

Where XLA does otherwise, `Lowering` says how, by platform.

Letters: B batch, T length, D model, L layers.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from model import TransformerConfig
from parallel import BATCH_AXES
from parallel.collectives import Total, Totals

from .compose import make_model, num_microbatches
from .optimizer import parameter_name
from .state import abstract_state


@dataclasses.dataclass(frozen=True)
class Lowering:
    """How a compiler departs from the textbook.

    Attributes:
        adds_before_reducing: a sum of partial sums is reduced once. XLA for CPUs reduces each term: one for each matmul
            that reads the same activations, and one for each use of a tied table.
        reduces_after_loop: gradients of vectors are summed over devices once, stacked, after the loop over the layers.
    """

    adds_before_reducing: bool
    reduces_after_loop: bool


LOWERINGS = {
    "cpu": Lowering(adds_before_reducing=False, reduces_after_loop=False),
    "tpu": Lowering(adds_before_reducing=True, reduces_after_loop=True),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a budget.

    Attributes:
        kind: of the collective.
        axis: of the mesh.
        what: in words.
        total: tensors and bytes of a step.
    """

    kind: str
    axis: str
    what: str
    total: Total


@dataclasses.dataclass(frozen=True)
class _Step:
    """What the rows are computed from.

    Attributes:
        model: its shape.
        params: the parameters, abstract, with their shardings.
        sizes: of the mesh axes.
        tokens: of a device in a microbatch.
        microbatches: of a step.
        itemsize: bytes of an activation.
        lowering: of the platform.
    """

    model: TransformerConfig
    params: list["_Parameter"]
    sizes: dict[str, int]
    tokens: int
    microbatches: int
    itemsize: int
    lowering: Lowering


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A parameter: its elements without those divided over axes other than fsdp, and how often it occurs."""

    name: str
    size: int
    layers: int
    over_fsdp: bool

    @property
    def is_vector(self) -> bool:
        return "norm" in self.name


def budget(config: Any, mesh: Mesh, platform: str) -> list[Row]:
    """The collectives that a step of this config should need, axis by axis.

    Where several axes are larger than 1, what is reduced over "data" is the part of a gradient that a device holds.

    Args:
        config: the whole config.
        mesh: its devices need not be here.
        platform: a key of `LOWERINGS`.

    Returns:
        The rows; scalars, such as the loss and the norm of the gradient, are left out.

    Example:
        totals_of(budget(config, mesh, "cpu")) == totals(collectives(text, mesh.shape))
    """
    model = make_model(config).config
    sizes = dict(mesh.shape)
    microbatches = num_microbatches(config, mesh)
    rows = config.data.batch_size // math.prod(sizes[axis] for axis in BATCH_AXES) // microbatches
    step = _Step(
        model=model,
        params=_parameters(config, mesh),
        sizes=sizes,
        tokens=rows * config.data.seq_len // sizes["context"],
        microbatches=microbatches,
        itemsize=jnp.dtype(model.dtype).itemsize,
        lowering=LOWERINGS[platform],
    )
    return [row for axis, row_of in AXES.items() if sizes[axis] > 1 for row in row_of(step)]


def totals_of(rows: list[Row]) -> Totals:
    """The rows added up as `parallel.collectives.totals` adds what it finds."""
    added: Totals = {}
    for row in rows:
        key = (row.kind, (row.axis,))
        added[key] = added.get(key, Total()) + row.total
    return added


def _parameters(config: Any, mesh: Mesh) -> list[_Parameter]:
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state(config, mesh).params):
        axes = [a for part in leaf.sharding.spec if part for a in ((part,) if isinstance(part, str) else part)]
        name = parameter_name(path)
        layers = leaf.shape[0] if name.startswith("layers") else 1
        others = math.prod(mesh.shape[axis] for axis in axes if axis != "fsdp")
        found.append(_Parameter(name, leaf.size // layers // others, layers, "fsdp" in axes))
    return found


def _gradients(step: _Step, parameter: _Parameter) -> Total:
    """What is summed over devices for the gradient of a parameter: tensors and bytes of a step."""
    count, size = parameter.layers * step.microbatches, parameter.size
    if parameter.is_vector:  # float32 from the start
        tensors = step.microbatches if step.lowering.reduces_after_loop else count
        return Total(tensors, count * size * 4)
    if parameter.name == "embedding" and step.model.tie_embeddings:
        # As a table of rows in the compute dtype, and as the head in float32.
        if step.itemsize == 4 and step.lowering.adds_before_reducing:
            return Total(count, count * size * 4)
        return Total(2 * count, count * size * (step.itemsize + 4))
    itemsize = 4 if parameter.name in ("head", "positions") else step.itemsize
    return Total(count, count * size * itemsize)


def _data(step: _Step) -> list[Row]:
    total = Total()
    for one in step.params:
        held = dataclasses.replace(one, size=one.size // (step.sizes["fsdp"] if one.over_fsdp else 1))
        total += _gradients(step, held)
    return [Row("all-reduce", "data", "gradients", total)]


def _fsdp(step: _Step) -> list[Row]:
    divided = [one for one in step.params if one.over_fsdp]
    whole = [one for one in step.params if not one.over_fsdp]

    def gathered(one: _Parameter) -> Total:
        itemsize = 4 if one.name == "positions" else step.itemsize
        # A table is the same in each microbatch: gathered before their loop, and kept for the backward pass.
        count = one.layers * step.microbatches if one.layers > 1 else 1
        return Total(count, count * one.size * itemsize)

    layers = sum((gathered(one) for one in divided if one.layers > 1), Total())
    tables = sum((gathered(one) for one in divided if one.layers == 1), Total())
    return [
        Row("all-gather", "fsdp", "layers, forward", layers),
        Row("all-gather", "fsdp", "layers, backward", layers),
        Row("all-gather", "fsdp", "tables", tables),
        Row("reduce-scatter", "fsdp", "gradients", sum((_gradients(step, one) for one in divided), Total())),
        Row("all-reduce", "fsdp", "gradients of vectors", sum((_gradients(step, one) for one in whole), Total())),
    ]


def _tensor(step: _Step) -> list[Row]:
    L, M = step.model.num_layers, step.microbatches
    activations = Total(1, step.tokens * step.model.d_model * step.itemsize)

    def times(total: Total, count: int) -> Total:
        return Total(total.tensors * count, total.bytes * count)

    readers = 2 if step.lowering.adds_before_reducing else 3 + (2 if step.model.is_gated else 1)
    return [
        Row("all-reduce", "tensor", "sublayers, forward", times(activations, 2 * L * M)),
        Row("all-reduce", "tensor", "sublayers, backward", times(activations, readers * L * M)),
        Row("all-reduce", "tensor", "embedding", times(activations, M)),
        Row("all-reduce", "tensor", "loss: maximum, sum and target's logit", times(Total(1, step.tokens * 4), 3 * M)),
        Row("all-reduce", "tensor", "head, backward", times(activations, M)),
    ]


# Mesh axis -> its rows; one more axis is one more function here.
AXES = {"data": _data, "fsdp": _fsdp, "tensor": _tensor}
