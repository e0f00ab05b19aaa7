"""What each mesh axis costs on paper: the collectives of one train step, from the model's shape.

The counts are those of the papers that the ways of dividing the work come from:

- data: the gradient of each parameter is all-reduced once (Li et al. 2020, arXiv:2006.15704, section 3), however many
  microbatches there are; where there are several, those of all layers together and in float32, as they are summed.
- fsdp: each parameter is gathered for the forward pass and again for the backward one, and its gradient is
  reduce-scattered (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, section 7: 3 times the parameters in all, where
  data parallelism has 2), in each microbatch. What stays whole, such as norms, is all-reduced. Under the rules "zero1"
  and "zero2" parameters are gathered once, after the update.
- tensor: a block's two sublayers each all-reduce their output forward and the gradient of their input backward
  (Megatron-LM, Shoeybi et al. 2019, arXiv:1909.08053, section 3, figures 3 and 4). Where the residual's length is
  divided too, each all-reduce is a reduce-scatter and an all-gather instead, and the backward pass gathers the
  sublayers' inputs once more instead of keeping them (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2).
  Embedding and head do as a sublayer; the loss all-reduces the maximum and two sums of each token.
- context: gradients are all-reduced in each microbatch, as the shards' tokens differ. Each layer of the ring passes
  keys and values on C - 1 times, and in the backward pass once more, with their gradients in float32 beside them, which
  take the last of their C - 1 steps home (Liu et al. 2023, arXiv:2310.01889, section 3). The other form has 4
  all-to-alls forward and 4 backward (Jacobs et al. 2023, arXiv:2309.14509, section 3.2). Positions and segment ids,
  which are the same for all layers, are gathered once.
- expert: gradients of all but the experts are all-reduced in each microbatch. Without drops a layer gathers the tokens
  of the devices that share the experts and reduce-scatters their outputs, and the other way round for the gradients;
  with a capacity an all-to-all takes B x E x capacity slots to the experts and one takes them back, each way
  (GShard, Lepikhin et al. 2020, arXiv:2006.16668, section 3.2).
- stage: one activation goes to the next stage in each tick that has a forward, and one gradient to the one before in
  each that has a backward (GPipe, Huang et al. 2019, arXiv:1811.06965, section 2). The vocabulary is divided over the
  stages: rows that enter are all-reduced; what leaves the last stage goes to all (a permute and an all-reduce), they
  share the head and the loss, whose gradient is all-reduced; the gradient that comes out of the first stage goes to
  all. A loop's program is the same for all its ticks, so these are counted in every tick of a phase of the schedule in
  which any microbatch enters, leaves or comes out: an upper bound of M, which is what runs.

Where XLA does otherwise, `Lowering` says how, by platform.

Letters: B batch, T length, D model, L layers, C shards of the length, E experts, M microbatches.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

from jax.sharding import Mesh

from model import TransformerConfig, kept_names
from parallel import make_schedule
from parallel.collectives import Total, Totals
from parallel.context import kv_repeats
from parallel.ring import ring_steps
from parallel.schedules import ENDS, tables

from .layout import Layout, layout_of
from .trainable import ADAPTERS
from .workload import Leaf, Workload, workload_of


@dataclasses.dataclass(frozen=True)
class Lowering:
    """How a compiler departs from the textbook.

    Attributes:
        adds_before_reducing: a sum of partial sums is reduced once. XLA for CPUs reduces each term: one for each matmul
            that reads the same activations, and one for each use of a tied table.
        reduces_after_loop: gradients of vectors are summed over devices once, stacked, after the loop over the layers.
        gathers_ids_again: the ring's backward pass gathers positions and segment ids in each layer.
    """

    adds_before_reducing: bool
    reduces_after_loop: bool
    gathers_ids_again: bool


LOWERINGS = {
    "cpu": Lowering(adds_before_reducing=False, reduces_after_loop=False, gathers_ids_again=False),
    "tpu": Lowering(adds_before_reducing=True, reduces_after_loop=True, gathers_ids_again=True),
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
        params: the parameters that are trained.
        fixed: the others of the model, which are gathered as well.
        sizes: of the mesh axes.
        tokens: of a device in a microbatch.
        encoder_tokens: those of an encoder.
        length: of a row.
        microbatches: of a step.
        itemsize: bytes of an activation.
        length_divided: whether tensor divides the residual's length.
        remat: what the backward pass computes again.
        context_attention: "ring" or "all_to_all".
        layout: of the step.
        lowering: of the platform.
    """

    model: TransformerConfig
    params: list["_Parameter"]
    fixed: list["_Parameter"]
    sizes: dict[str, int]
    tokens: int
    encoder_tokens: int
    length: int
    microbatches: int
    itemsize: int
    length_divided: bool
    remat: str
    context_attention: str
    layout: Layout
    lowering: Lowering


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A parameter.

    Attributes:
        name: its path.
        size: elements of one layer's, without the parts that axes other than fsdp hold elsewhere.
        layers: how many there are.
        divided: of the parameter, its gradient and its moments: whether fsdp divides it.
        of_experts: whether the axis expert divides it.
    """

    name: str
    size: int
    layers: int
    divided: dict[str, bool]
    of_experts: bool

    @property
    def is_vector(self) -> bool:
        return "norm" in self.name

    @property
    def is_adapter(self) -> bool:
        return self.name.endswith(ADAPTERS)

    @property
    def in_layers(self) -> bool:
        return self.name.split("/")[0].endswith("layers")


def budget(config: Any, mesh: Mesh, platform: str) -> list[Row]:
    """The collectives that a step of this config should need, axis by axis.

    Where several axes are larger than 1, what is reduced over "data" is the part of a gradient that a device holds, and
    XLA may reduce over several axes at once what is a row of each here. Beside stages, the rows of the other axes are
    counted for microbatches, not for the ticks in which a stage computes on what is dropped.

    Args:
        config: the whole config.
        mesh: its devices need not be here.
        platform: a key of `LOWERINGS`.

    Returns:
        The rows; scalars, such as the loss and the norm of the gradient, are left out.

    Example:
        totals_of(budget(config, mesh, "cpu")) == totals(collectives(text, mesh.shape))
    """
    return budget_of(workload_of(config), layout_of(config, mesh), platform)


def budget_of(workload: Workload, layout: Layout, platform: str) -> list[Row]:
    """As `budget`, of shapes that are at hand, as for the many meshes of a plan."""
    sizes = layout.sizes
    step = _Step(
        model=workload.model,
        params=_parameters(workload, workload.params, sizes),
        fixed=_parameters(workload, workload.fixed, sizes),
        sizes=sizes,
        tokens=layout.microbatch_rows * workload.length // layout.context,
        encoder_tokens=layout.microbatch_rows * workload.encoder_length,
        length=workload.length,
        microbatches=layout.microbatches(workload),
        itemsize=workload.itemsize,
        length_divided=workload.divides_length,
        remat=layout.remat,
        context_attention=layout.context_attention,
        layout=layout,
        lowering=LOWERINGS[platform],
    )
    return [row for axis, rows_of in AXES.items() if sizes[axis] > 1 for row in rows_of(step) if row.total.tensors]


def totals_of(rows: list[Row]) -> Totals:
    """The rows added up as `parallel.collectives.totals` adds what it finds."""
    added: Totals = {}
    for row in rows:
        key = (row.kind, (row.axis,))
        added[key] = added.get(key, Total()) + row.total
    return added


def _parameters(workload: Workload, leaves: Iterable[Leaf], sizes: dict[str, int]) -> list["_Parameter"]:
    found = []
    for leaf in leaves:
        axes = workload.axes_of(leaf)
        layers = leaf.shape[0] if leaf.in_layers else 1
        others = math.prod(sizes[axis] for axis in axes if axis != "fsdp")
        divided = {of: "fsdp" in workload.axes_of(leaf, of) for of in ("", "gradient", "moment")}
        found.append(_Parameter(leaf.name, leaf.size // layers // others, layers, divided, "expert" in axes))
    return found


def _times(total: Total, count: int) -> Total:
    return Total(total.tensors * count, total.bytes * count)


def _sum(totals: Iterable[Total]) -> Total:
    return sum(totals, Total())


def _gradients(step: _Step, parameter: _Parameter, *, parts: int = 1, scattered: bool = False) -> Total:
    """What is summed over devices for the gradient of a parameter: tensors and bytes of a step.

    Args:
        step: the step.
        parameter: the parameter.
        parts: of which a device holds one.
        scattered: by a reduce-scatter. XLA casts a head's gradient, which is made in float32, to the compute dtype
            after that, but before an all-reduce.
    """
    size, M, lowering = parameter.size // parts, step.microbatches, step.lowering
    if parameter.is_vector:  # made in float32
        if not lowering.reduces_after_loop:
            return _times(Total(1, size * 4), parameter.layers * M)
        return _times(Total(1, size * parameter.layers * 4), M if parameter.in_layers else 1)
    if parameter.name.endswith("w_router"):  # so is this
        return _times(Total(1, size * 4), parameter.layers * M)
    head_itemsize = 4 if scattered else step.itemsize
    one = Total(1, size * (head_itemsize if parameter.name == "head" else step.itemsize))
    if parameter.name == "positions":  # added in float32
        one = Total(1, size * 4)
    if parameter.name == "embedding" and step.model.tie_embeddings:
        # As rows that were looked up, and as the head.
        one = Total(2, size * (step.itemsize + head_itemsize))
        if step.itemsize == 4 and lowering.adds_before_reducing:
            one = Total(1, size * 4)
    if (
        parameter.name == "embedding"
        and step.model.encoder
        and not (one.tensors == 1 and lowering.adds_before_reducing)
    ):
        one += Total(1, size * step.itemsize)  # both towers look up
    return _times(one, parameter.layers * M)


def _data(step: _Step) -> list[Row]:
    if step.microbatches == 1:
        return [Row("all-reduce", "data", "gradients", _sum(_held_gradients(step, one) for one in step.params))]
    parts = {one.name: step.sizes["fsdp"] if one.divided["gradient"] else 1 for one in step.params}
    total = _sum(Total(1, 4 * one.size * one.layers // parts[one.name]) for one in step.params)
    return [Row("all-reduce", "data", "gradients, all microbatches", total)]


def _held_gradients(step: _Step, parameter: _Parameter) -> Total:
    """As `_gradients`, of the part that fsdp leaves to a device."""
    return _gradients(step, parameter, parts=step.sizes["fsdp"] if parameter.divided["gradient"] else 1)


def _fsdp(step: _Step) -> list[Row]:
    def gathered(one: _Parameter) -> Total:
        itemsize = 4 if one.name == "positions" else step.itemsize
        # A table is the same in each microbatch: gathered before their loop, and kept for the backward pass.
        return _times(Total(1, one.size * itemsize), one.layers * step.microbatches if one.in_layers else 1)

    # Adapters are added to what they adapt, whose gradient is reduced; theirs follow from it.
    of_model = [*(one for one in step.params if not one.is_adapter), *step.fixed]
    read = [one for one in of_model if one.divided[""]]
    layers = _sum(gathered(one) for one in read if one.in_layers)
    tables = _sum(gathered(one) for one in read if not one.in_layers)
    updated = [one for one in step.params if one.divided["moment"] and not one.divided[""]]
    adapted = {one.name.rpartition("/")[0] for one in step.params if one.is_adapter}
    trained = [*(one for one in step.params if not one.is_adapter), *(one for one in step.fixed if one.name in adapted)]
    scattered = [one for one in trained if one.divided["gradient"]]
    whole = [one for one in step.params if not one.divided["gradient"]]
    return [
        Row("all-gather", "fsdp", "layers, forward", layers),
        Row("all-gather", "fsdp", "layers, backward", layers),
        Row("all-gather", "fsdp", "tables", tables),
        Row("all-gather", "fsdp", "updated parameters", _sum(Total(1, one.layers * one.size * 4) for one in updated)),
        Row("reduce-scatter", "fsdp", "gradients", _sum(_gradients(step, one, scattered=True) for one in scattered)),
        Row("all-reduce", "fsdp", "gradients that stay whole", _sum(_gradients(step, one) for one in whole)),
    ]


def _tensor(step: _Step) -> list[Row]:
    m, M, adds = step.model, step.microbatches, step.lowering.adds_before_reducing
    activations, of_encoder = (Total(1, n * m.d_model * step.itemsize) for n in (step.tokens, step.encoder_tokens))
    in_float32 = Total(1, step.tokens * m.d_model * 4)
    # Of each tower the layers, what goes from layer to layer, and the attentions of a layer.
    towers = [(m.num_layers, activations, 2 if m.encoder else 1)]
    towers += [(m.encoder.num_layers, of_encoder, 1)] if m.encoder else []

    def of_layers(count: Callable[[int], int]) -> Total:
        """Of all towers, with a count for each layer that has so many attentions."""
        return _sum(_times(stream, count(attentions) * L * M) for L, stream, attentions in towers)

    # Matmuls that read a sublayer's normalised input: each gives a part of its gradient. Keys and values of what the
    # encoder read are made of that, in each layer of the decoder; its gradient stays whole.
    products = 3 + (2 if m.is_gated else 1)
    readers = of_layers(lambda attentions: attentions + 1 if adds else products + attentions - 1)
    memory = _times(of_encoder, m.num_layers * M * (1 if adds else 2)) if m.encoder else Total()
    keeps_sums = step.remat in ("none", "dots") or "attention_sum" in kept_names(step.remat)
    # Unless the products themselves are kept, attention's output is needed again for the next sublayer's input.
    again = of_layers(lambda attentions: 0 if keeps_sums else attentions)
    sublayers = of_layers(lambda attentions: attentions + 1)
    tables = _sum(_times(stream, M) for _, stream, _ in towers)
    loss = Row("all-reduce", "tensor", "loss: maximum and sums", _times(Total(1, step.tokens * 4), 3 * M))
    of_memory = Row("all-reduce", "tensor", "what the encoder read, backward", memory)
    reduced = {
        "sublayers, forward": sublayers,
        "sublayers, computed again": again,
        "sublayers, backward": readers,
        "embedding": tables,
        "head, backward": _times(in_float32 if step.length_divided else activations, M),
    }
    if not step.length_divided:
        return [loss, of_memory, *(Row("all-reduce", "tensor", what, total) for what, total in reduced.items())]
    gathered = {
        "sublayers, forward": sublayers + memory,
        "sublayers, inputs again": sublayers,
        "sublayers, backward": sublayers,
        "embedding, backward": tables,
        "head": _times(activations, M),
    }
    vectors = _sum(_gradients(step, one) for one in step.params if one.is_vector)
    return [
        loss,
        of_memory,
        *(Row("reduce-scatter", "tensor", what, total) for what, total in reduced.items()),
        *(Row("all-gather", "tensor", what, total) for what, total in gathered.items()),
        Row("all-reduce", "tensor", "gradients of vectors", vectors),
    ]


def _context(step: _Step) -> list[Row]:
    m, L, M, shards = step.model, step.model.num_layers, step.microbatches, step.sizes["context"]
    gradients = _sum(_held_gradients(step, one) for one in step.params)
    # Positions and segment ids, 4 bytes each, of all tokens.
    ids = step.tokens * shards * 4
    rows = [Row("all-reduce", "context", "gradients", gradients)]
    if step.context_attention == "ring":
        steps = ring_steps(step.length // shards // 2, shards, m.window)
        sent = len(steps) - 1
        elements = 2 * step.tokens * m.num_kv_heads * m.size_of_head // step.sizes["tensor"]
        again = L * M if step.lowering.gathers_ids_again else 0
        return [
            *rows,
            Row(
                "collective-permute",
                "context",
                "k and v, forward",
                _times(Total(1, elements * step.itemsize), sent * L * M),
            ),
            Row(
                "collective-permute",
                "context",
                "k and v, backward",
                _times(Total(1, elements * step.itemsize), sent * L * M),
            ),
            Row("collective-permute", "context", "their gradients", _times(Total(1, elements * 4), sent * L * M)),
            Row("all-gather", "context", "positions and segment ids", _times(Total(1, 2 * ids), M + again)),
        ]
    kv_heads = m.num_kv_heads * kv_repeats(m.num_heads, m.num_kv_heads, shards * step.sizes["tensor"])
    per_head = step.tokens * m.size_of_head * step.itemsize // step.sizes["tensor"]
    exchanged = Total(4, 2 * per_head * (m.num_heads + kv_heads))  # q, k and v; the output
    passes = {"forward": 1, "computed again": int(step.remat == "full"), "backward": 1}
    return [
        *rows,
        *(Row("all-to-all", "context", f"heads, {what}", _times(exchanged, n * L * M)) for what, n in passes.items()),
        Row("all-gather", "context", "positions and segment ids", _times(Total(2, 2 * ids), M)),
    ]


def _expert(step: _Step) -> list[Row]:
    m, shards, runs = step.model, step.sizes["expert"], step.model.num_layers * step.microbatches
    replicated = _sum(_held_gradients(step, one) for one in step.params if not one.of_experts)
    rows = [Row("all-reduce", "expert", "gradients of all but experts", replicated)]
    if m.expert_capacity:
        slots = min(step.length, math.ceil(m.expert_capacity * step.length * m.experts_per_token / m.num_experts))
        batch = step.tokens // step.length
        exchanged = Total(2, 2 * batch * m.num_experts * slots * m.d_model * step.itemsize)
        return [
            *rows,
            Row("all-to-all", "expert", "slots, forward", _times(exchanged, runs)),
            Row("all-to-all", "expert", "slots, backward", _times(exchanged, runs)),
        ]
    tokens = step.tokens * shards
    activations = Total(1, tokens * m.d_model * step.itemsize)
    copies = tokens * m.experts_per_token
    chosen, weights = Total(1, copies * 4), Total(1, copies * step.itemsize)
    return [
        *rows,
        Row("all-gather", "expert", "tokens", _times(activations, runs)),
        Row("all-gather", "expert", "chosen experts and their weights", _times(chosen + weights, runs)),
        Row("reduce-scatter", "expert", "outputs", _times(activations, runs)),
        Row("all-gather", "expert", "gradients of outputs", _times(activations, runs)),
        Row("reduce-scatter", "expert", "gradients of tokens", _times(activations, runs)),
        Row("reduce-scatter", "expert", "gradients of weights", _times(Total(1, copies * 4), runs)),
    ]


def _stage(step: _Step) -> list[Row]:
    activations = Total(1, step.tokens * step.model.d_model * step.itemsize)
    layout = step.layout
    of_kind, at_most = _ticks(layout.schedule, layout.stage, step.microbatches, layout.chunks)
    moved = {
        ("collective-permute", "activations"): _times(activations, of_kind["F"]),
        ("collective-permute", "gradients"): _times(activations, of_kind["B"]),
        ("collective-permute", "output, at most"): _times(activations, at_most["leave"]),
        ("all-reduce", "output, at most"): _times(activations, at_most["leave"]),
        ("all-reduce", "embedding, at most"): _times(activations, at_most["enter"]),
        ("all-reduce", "head, backward, at most"): _times(activations, at_most["leave"]),
        ("all-reduce", "gradient of the embedding, at most"): _times(activations, at_most["exit"]),
        ("all-reduce", "loss: maximum and sums, at most"): _times(Total(1, step.tokens * 4), 3 * at_most["leave"]),
    }
    return [Row(kind, "stage", what, total) for (kind, what), total in moved.items()]


@functools.cache
def _ticks(name: str, stages: int, microbatches: int, chunks: int) -> tuple[dict[str, int], dict[str, int]]:
    """Ticks with a forward and with a backward; and those of phases in which any microbatch enters, leaves, exits."""
    schedule = make_schedule(name, num_stages=stages, num_microbatches=microbatches, num_chunks=chunks)
    arrays, _ = tables(schedule)
    phases = schedule.phases()
    of_kind = {kind: sum(len(ticks) for kinds, ticks in phases if kind in kinds) for kind in "FB"}
    at_most = {
        end: sum(len(ticks) for _, ticks in phases if (arrays[end][ticks.start : ticks.stop] >= 0).any())
        for end in ENDS
    }
    return of_kind, at_most


# Mesh axis -> its rows; one more axis is one more function here.
AXES = {
    "stage": _stage,
    "data": _data,
    "fsdp": _fsdp,
    "expert": _expert,
    "context": _context,
    "tensor": _tensor,
}
