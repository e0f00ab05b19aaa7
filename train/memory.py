"""Memory of a chip in a train step, term by term, from shapes alone.

A step has three moments at which memory may be fullest: the loss, where the logits are; the backward pass of a layer,
where the gradients grow while the kept activations are still there; and the update. The state is there in all three.
Each term below is a function with its formula; what a chip needs is the largest sum.

State, by ZeRO's count (Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1), is exact: 4 bytes for each parameter
that the chip holds, what the optimizer adds (8 bytes for Adam's two moments), and 4 for the gradient. Kept activations
are exact too (`train.activations`). The rest follows what XLA does with this step, read from its programs:

- Matmuls in bfloat16 read copies of the layers' parameters, which XLA makes for all layers before the loop; on GPUs in
  the loop, layer by layer.
- Without remat the loop stacks those copies, once more, as they are among what the backward pass needs.
- Gradients of several microbatches are added to sums, so there are two of each while a microbatch is computed.
- Logits are float32; their gradient is fused into the two matmuls that read it, but for some chips.
- The gradient of the head is whole, in float32, before it is reduced over "fsdp".
- In the backward pass of a plain attention there are at once its logits or their gradient in float32, and
  probabilities and their gradient in the compute dtype.
- XLA for GPUs makes the zeros to which the backward loop adds the layers' gradients before the loss.
- Where several GPUs communicate, it puts off the matmul of the head's gradient, to have something to compute beside the
  last collectives: logits stay through the backward pass, and at its end are there beside that gradient, and that of
  the rows that were looked up.

Letters: B batch, T length, N heads, K kv heads, H head dim, D model, F mlp, V vocab, L layers, S stages.
"""

import dataclasses
import math
from collections.abc import Mapping

from model import TransformerConfig, block_of
from parallel import CHIPS

from .activations import bytes_of, kept_activations
from .layout import Layout
from .workload import Workload

# Chips for which XLA makes the logits' gradient whole, in the compute dtype, beside the logits.
WHOLE_LOGIT_GRADIENTS = ("v5e",)


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a chip holds at the fullest moment of a step; an estimate.

    Attributes:
        moment: "loss", "backward", "head" (its gradient, where it is put off) or "update".
        terms: bytes by name, the largest first.
    """

    moment: str
    terms: Mapping[str, float]

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.terms.values())


def estimate_memory(workload: Workload, layout: Layout, chip: str = "") -> Memory:
    """The terms at the fullest moment.

    Args:
        workload: of the config.
        layout: mesh, microbatch and remat; each dim must be divisible by what divides it.
        chip: its name, for what compilers do differently.
    """
    sizes, accumulates = layout.sizes, layout.microbatches(workload) > 1
    is_gpu = chip in CHIPS and CHIPS[chip].platform == "gpu"
    puts_off = is_gpu and layout.num_devices > 1 and not workload.chunk
    state = {
        "parameters": workload.shard_bytes("params", sizes),
        "optimizer moments": workload.shard_bytes("moments", sizes, "moment"),
        "fixed parameters": workload.shard_bytes("fixed", sizes) + workload.shard_bytes("teacher_params", sizes),
    }
    held = {"weights in the compute dtype": cast_weights(workload, layout, is_gpu=is_gpu)} | _kept(workload, layout)
    grads = gradients(workload, sizes)
    sums = {"sums of gradients": grads} if accumulates else {}
    logits = logits_bytes(workload, layout) * (1 + workload.itemsize / 4 if chip in WHOLE_LOGIT_GRADIENTS else 1)
    table, head_gradient = _table(workload, layout), _head_gradient(workload, layout)
    looked_up = table if workload.model.tie_embeddings else 0
    # On GPUs, the zeros of the loop over the layers; without remat there are none yet.
    zeros = _gradients_of_layers(workload, sizes) if is_gpu and layout.remat != "none" else 0
    moments = {
        "loss": state | held | sums | {"logits": logits, "head": max(table, head_gradient), "gradients": zeros},
        "backward": state
        | held
        | sums
        | {
            "gradients": grads,
            "working set of a layer": _working_set(workload, layout),
            "gathered weights of a layer": _gathered(workload, layout),
            "logits": logits if puts_off else 0,
        },
        "head": state | sums | {"gradients": grads, "logits": logits, "head": head_gradient + looked_up}
        if puts_off
        else {},
        "update": state | sums | {"gradients": 0 if sums else grads},
    }
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    terms = {name: size for name, size in moments[moment].items() if size}
    return Memory(moment, dict(sorted(terms.items(), key=lambda item: -item[1])))


def cast_weights(workload: Workload, layout: Layout, *, is_gpu: bool = False) -> float:
    """Layers' parameters in bfloat16, 2 bytes each; once more where the loop keeps them for the backward pass."""
    if workload.itemsize == 4:
        return 0
    copies = (0 if is_gpu else 1) + (1 if layout.remat == "none" and layout.stage == 1 else 0)
    return workload.shard_bytes("matrices", layout.sizes) * 2 * copies


def kept_bytes(workload: Workload, layout: Layout) -> float:
    """What all layers would keep of a microbatch on a device (`train.activations`)."""
    m = workload.model
    k = min(m.experts_per_token, m.num_experts // layout.expert) if m.num_experts else 0
    return bytes_of(
        kept_activations(m, layout.remat, fused=not layout.keeps_probabilities),
        rows=layout.share_of_rows,
        length=workload.length,
        encoder_length=workload.encoder_length,
        sizes=layout.sizes,
        divides_length=workload.divides_length,
        copies=layout.expert * k / m.experts_per_token if k else 1.0,
    )


def _kept(workload: Workload, layout: Layout) -> dict[str, float]:
    """Activations between the passes: of all layers, or in a pipeline of one piece and the inputs of those that wait.

    A stage keeps the inputs of at most M microbatches (gpipe), min(M, 2 S - 1) (1f1b), or
    min(C M, 2 S - 1 + (C - 1) S) (`parallel.schedules.make_schedule`), and of a split backward pass what the gradients
    of the weights need, for at most S microbatches.
    """
    kept, m = kept_bytes(workload, layout), workload.model
    if layout.stage == 1:
        return {"kept activations": kept}
    S, C, M = layout.stage, layout.chunks, layout.microbatches(workload)
    slots = {"gpipe": M}.get(layout.schedule, min(C * M, 2 * S - 1 + (C - 1) * S))
    stream = layout.tokens(workload) * m.d_model * workload.itemsize
    stream /= layout.tensor if workload.divides_length else 1
    pieces = kept / (S * C)
    waiting = S * pieces if layout.schedule == "zero_bubble" else 0
    return {"kept activations": pieces + waiting, "inputs of waiting microbatches": (slots + 4) * stream}


def gradients(workload: Workload, sizes: Mapping[str, int]) -> float:
    """Float32, divided as the rules say of "gradient"."""
    return workload.shard_bytes("params", sizes, "gradient")


def _gradients_of_layers(workload: Workload, sizes: Mapping[str, int]) -> float:
    """Of `gradients` those of the layers."""
    return 4 * sum(workload.shard_size(leaf, sizes, "gradient") for leaf in workload.params if leaf.in_layers)


def _head_size(workload: Workload, layout: Layout) -> float:
    """Elements of the head's or the embedding's matrix, V D, that a device has once it is gathered over fsdp."""
    m, table = workload.model, dict(workload.rules)
    return m.padded_vocab_size * m.d_model / math.prod(layout.sizes[axis] for axis in table["vocab"])


def logits_bytes(workload: Workload, layout: Layout) -> float:
    """4 B T V bytes: float32, of one microbatch, or of as many positions as are made at a time; and a teacher's."""
    if not workload.has_logits:
        return 0
    vocab = math.prod(layout.sizes[axis] for axis in dict(workload.rules)["vocab"])
    models = [workload.model] if workload.teacher is None else [workload.model, workload.teacher]
    tokens = layout.share_of_rows * (min(workload.chunk, workload.length) or workload.length)
    return 4 * tokens * sum(m.padded_vocab_size for m in models) / vocab


def _table(workload: Workload, layout: Layout) -> float:
    """The head as the matmul reads it, in the compute dtype."""
    return _head_size(workload, layout) * workload.itemsize if logits_bytes(workload, layout) else 0


def _head_gradient(workload: Workload, layout: Layout) -> float:
    """4 V D bytes, if it is trained: whole over fsdp, as the matmul makes it."""
    name = "embedding" if workload.model.tie_embeddings else "head"
    is_trained = workload.has_logits and any(leaf.name == name for leaf in workload.params)
    return _head_size(workload, layout) * 4 if is_trained else 0


def _gathered(workload: Workload, layout: Layout) -> float:
    """A layer's matrices whole over fsdp, in the compute dtype: those at work, and those that are on their way."""
    if layout.fsdp == 1:
        return 0
    others = {axis: 1 if axis == "fsdp" else size for axis, size in layout.sizes.items()}
    of_layer = 0.0
    for leaf in (*workload.params, *workload.fixed):
        if leaf.is_matrix_of_layers and "fsdp" in workload.axes_of(leaf):
            of_layer += workload.shard_size(leaf, others) * layout.stage / leaf.shape[0]
    return of_layer * workload.itemsize


def _working_set(workload: Workload, layout: Layout) -> float:
    """`_working_set_of` the widest tower's layers."""
    m, tokens, length = workload.model, layout.tokens(workload), workload.length
    own = _working_set_of(m, workload, layout, tokens, max(length, workload.encoder_length))
    if m.encoder is None:
        return own
    encoder_tokens = layout.encoder_tokens(workload)
    return max(own, _working_set_of(m.encoder, workload, layout, encoder_tokens, workload.encoder_length))


def _working_set_of(m: TransformerConfig, workload: Workload, layout: Layout, tokens: float, length: int) -> float:
    """What the backward pass of one layer has at once, computed again or on its way.

    A plain attention: (4 + 2 a) B N T T bytes for an itemsize of a; one in blocks of R queries has R in place of a T. A
    fused one: queries, keys, values, their gradients, the output and its gradient, (4 N + 4 K) H numbers a token. An
    MLP: its hidden activations and their gradients, 4 F numbers a token if gated, else 3 F; beside them are the
    residual stream, its gradient and the normalised input. Where "tensor" divides the matmuls there is a moment with
    whole inputs and partial sums of both sublayers and of their gradients, 8 D more, and 2 F of the hidden numbers.
    """
    a, D = workload.itemsize, m.d_model
    N, K, H, tensor = m.num_heads, m.num_kv_heads, m.size_of_head, layout.tensor
    heads = (4 * N + 4 * K) * H * tokens * a / tensor
    attention = heads
    if layout.writes_logits:
        seen = length if layout.keeps_probabilities else block_of(length)
        seen = length / (2 * layout.context) if layout.is_ring else seen
        attention = heads / 2 + (4 + 2 * a) * tokens * seen * N / tensor
    moments = [(3, 4 if m.is_gated else 3), *([(11, 2)] if tensor > 1 else [])]
    return attention + max(stream * D * tokens * a + _hidden(m, layout, tokens, wide) * a for stream, wide in moments)


def _hidden(m: TransformerConfig, layout: Layout, tokens: float, wide: int) -> float:
    """Numbers of an MLP, or of experts for each copy of a token: so many for each hidden one."""
    mlp = wide * tokens * m.d_mlp / layout.tensor
    if not m.num_experts:
        return mlp
    k = min(m.experts_per_token, m.num_experts // layout.expert)
    copies = tokens * (layout.expert * k if not m.expert_capacity else m.experts_per_token * m.expert_capacity)
    experts = copies * (wide * m.size_of_expert / layout.tensor + 2 * m.d_model)
    return max(mlp if m.num_dense_layers else 0, experts)
