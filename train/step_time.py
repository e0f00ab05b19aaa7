"""A bound on the time of a train step, from the chip's peaks: never a measurement.

Three things take time, and the slowest binds if all overlap (the roofline of Williams et al. 2009,
doi:10.1145/1498765.1498785; for networks Austin et al. 2025, jax-ml.github.io/scaling-book/roofline):

- compute: the matmuls (`model.flops`), with what remat does again, over the peak of their operands' types;
- memory: what must pass between the chip's memory and its matrix units, over the bandwidth of HBM;
- network: the collectives of `train.budget`, over the links that their axes have (`parallel.links`).

A pipeline makes all of it longer by the share of the time in which a stage waits. If nothing overlaps with the
network, its time comes on top: the real step lies between, if kernels reach their peak. In both cases what HBM does
while nothing else can be done is added: the update, which waits for the norm of all gradients, and the rearranging of
what attention exchanges by all-to-all.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from model import attention_flops, forward_flops, recomputed_flops
from parallel import NO_REDUCE_SCATTER, Link, Machine

from .budget import LOWERINGS, Row, budget_of
from .layout import Layout
from .memory import gradients, kept_bytes
from .precision import mean_peak
from .workload import Workload

# Two figures by the cycles of XLA's compiler for TPUs (docs/ranking.md). How often the heads that an all-to-all brings
# are read and written: they stand before their tokens, a shard has few of them, and the tokens are put back in order.
# It takes the time of 10 to 47 times, for layers of 8 and 4 heads on v5e and v5p.
REARRANGED = 16
# And what a ring of 4 writes and reads of a logit in a pass, in float32: the softmax of a block, and of all so far.
RING_BYTES = 40


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Bounds of a step, in seconds; estimates.

    Attributes:
        compute: of the matmuls.
        memory: of HBM traffic in the passes.
        alone: of HBM traffic that nothing else goes on beside.
        network: of the collectives.
        by_axis: of it, along each mesh axis.
        waiting: share of the time in which a stage of a pipeline waits.
        model_flops: operations of the model in a step, of all devices together, that MFU counts.
        peak: operations a second of all devices together.
        tokens: of a step.
    """

    compute: float
    memory: float
    alone: float
    network: float
    by_axis: Mapping[str, float]
    waiting: float
    model_flops: float
    peak: float
    tokens: int

    @property
    def overlapped(self) -> float:
        """If the three overlap."""
        return max(self.compute, self.memory, self.network) / (1 - self.waiting) + self.alone

    @property
    def serial(self) -> float:
        """If the network is waited for."""
        return (max(self.compute, self.memory) + self.network) / (1 - self.waiting) + self.alone

    @property
    def hbm(self) -> float:
        """Of all HBM traffic."""
        return self.memory + self.alone

    @property
    def binds(self) -> str:
        """Which of the three takes longest."""
        times = {"compute": self.compute, "memory": self.hbm, "network": self.network}
        return max(times, key=lambda name: times[name])

    @property
    def mfu(self) -> float:
        """The largest share of the peak that the model's operations can make, if all overlaps."""
        return self.model_flops / self.overlapped / self.peak

    @property
    def mfu_serial(self) -> float:
        """The same, if the network is waited for."""
        return self.model_flops / self.serial / self.peak

    @property
    def tokens_per_second(self) -> float:
        """At most."""
        return self.tokens / self.overlapped


def estimate_time(workload: Workload, layout: Layout, machine: Machine, links: Mapping[str, Link]) -> StepTime:
    """The bounds of a layout on a machine.

    Args:
        workload: of the config.
        layout: mesh, microbatch and remat.
        machine: as many devices as the layout has.
        links: of its mesh axes, as `parallel.links_of` finds them.
    """
    chip, lengths = machine.chip, {"encoder_length": workload.encoder_length, "logits": workload.has_logits}
    peak = mean_peak(chip, workload.model, workload.length, **lengths)  # what is done beside is taken to be as fast
    moved = budget_of(workload, layout, machine.chip.platform if machine.chip.platform in LOWERINGS else "cpu")
    by_axis = _network(moved, machine, links)
    return StepTime(
        compute=_operations(workload, layout, machine) / layout.num_devices / peak,
        memory=_traffic(workload, layout) / chip.hbm_bandwidth,
        alone=_alone(workload, layout, moved) / chip.hbm_bandwidth,
        network=sum(by_axis.values()),
        by_axis=by_axis,
        waiting=_waiting(workload, layout),
        model_flops=workload.flops,
        peak=peak * layout.num_devices,
        tokens=workload.tokens,
    )


def _operations(workload: Workload, layout: Layout, machine: Machine) -> float:
    """What a step's time at the peak is that of: the model's operations, and what is done beside them.

    - a plain attention computes what the mask hides too;
    - remat computes again, and a stage its layers from their inputs, whatever they keep within;
    - a teacher is run forward;
    - attention with heads narrower than an MXU takes longer.
    """
    model, chip = workload.model, machine.chip
    lengths: Any = {"length": workload.length, "encoder_length": workload.encoder_length}
    skips = not layout.keeps_probabilities
    pairs = attention_flops(model, **lengths, causal=skips)
    of_row = 3 * (pairs - attention_flops(model, **lengths))
    remats = [layout.remat] if layout.stage == 1 else [layout.remat, "full"]
    of_row += sum(
        recomputed_flops(model, **lengths, remat=remat, keeps=layout.keeps_probabilities, skips=skips)
        for remat in remats
    )
    if workload.teacher is not None:
        of_row += forward_flops(workload.teacher, **lengths, logits=workload.has_logits)
    times = 3 + sum(remat in ("full", "dots") for remat in remats)
    slower = chip.peak(model.compute_dtype) / chip.peak(model.compute_dtype, inner=model.size_of_head)
    return workload.flops + workload.rows * (of_row + times * pairs * (slower - 1))


def _waiting(workload: Workload, layout: Layout) -> float:
    """(S - 1) / (C M + S - 1) of a pipeline's time; with a split backward pass, two thirds of its wait."""
    if layout.stage == 1:
        return 0.0
    waits = (layout.stage - 1) * (2 / 3 if layout.schedule == "zero_bubble" else 1.0)
    return waits / (layout.chunks * layout.microbatches(workload) + waits)


def _network(moved: Sequence[Row], machine: Machine, links: Mapping[str, Link]) -> dict[str, float]:
    """Seconds along each mesh axis, one after the other."""
    reduce_scatters = machine.chip.name not in NO_REDUCE_SCATTER
    seconds: dict[str, float] = {}
    for row in moved:
        one = links[row.axis].seconds(row.kind, row.total.bytes, reduce_scatters=reduce_scatters)
        seconds[row.axis] = seconds.get(row.axis, 0.0) + one
    return seconds


def _alone(workload: Workload, layout: Layout, moved: Sequence[Row]) -> float:
    """Bytes between a chip and its HBM while nothing else goes on.

    - update: parameters, moments and gradients are read, parameters and moments written;
    - rearranging: the heads that an all-to-all exchanges are read and written `REARRANGED` times;
    - an attention that is no kernel writes and reads its logits and probabilities, in the backward pass with their
      gradients.
    """
    m, a, M = workload.model, workload.itemsize, layout.microbatches(workload)
    passes = 2 if layout.remat == "none" else 3
    held = workload.shard_bytes("params", layout.sizes) + workload.shard_bytes("moments", layout.sizes, "moment")
    exchanged = sum(row.total.bytes for row in moved if (row.kind, row.axis) == ("all-to-all", "context"))
    pairs = 0.0
    if layout.writes_logits:
        counted = attention_flops(
            m, workload.length, encoder_length=workload.encoder_length, causal=not layout.keeps_probabilities
        )
        latent = m.choice("latent_attention")
        each = 2 * (m.size_of_head + latent.rope + latent.value if latent.kind else 2 * m.size_of_head)
        pairs = (passes + 1) * M * layout.share_of_rows * counted / each / layout.tensor / layout.stage
        pairs *= RING_BYTES if layout.is_ring else 2 * (4 + a)
    return 2 * held + gradients(workload, layout.sizes) + 2 * REARRANGED * exchanged + pairs


def _traffic(workload: Workload, layout: Layout) -> float:
    """Bytes between a chip and its HBM in the passes of a step; what fusion can avoid is not counted.

    - weights: cast once where the compute dtype is another, and read by the forward pass, the backward one and its
      recomputation in each microbatch; their gradients are written, and with several microbatches read and written
      again;
    - activations: what is kept is written and read, and of each layer's inputs and outputs, 4 D + 2 (N + 2 K) H +
      2 (gates) F numbers a token, as much is written and read in each pass;
    - logits are written, and read by the softmax and by the two matmuls of their gradient.
    """
    m, a, M, sizes = workload.model, workload.itemsize, layout.microbatches(workload), layout.sizes
    grads = gradients(workload, sizes)
    passes = 2 if layout.remat == "none" else 3
    matrices = workload.shard_bytes("matrices", sizes) * a
    weights = (3 * matrices if a < 4 else 0) + passes * M * matrices * layout.fsdp
    weights += grads * (1 if M == 1 else 3 * M)
    activations = 2 * kept_bytes(workload, layout) * M / layout.stage
    activations += (passes + 1) * M * _numbers_of_layers(workload, layout) * a
    logits = 0.0
    if workload.has_logits:
        logits = 4 * layout.tokens(workload) * M * m.padded_vocab_size * 4 / layout.tensor / layout.stage
    return weights + activations + logits


def _numbers_of_layers(workload: Workload, layout: Layout) -> float:
    """Of a microbatch, the inputs and outputs of all layers of a device."""
    total = 0.0
    for m in filter(None, (workload.model, workload.model.encoder)):
        is_encoder = m is workload.model.encoder
        tokens = layout.encoder_tokens(workload) if is_encoder else layout.tokens(workload)
        attentions = 2 if workload.model.encoder is not None and not is_encoder else 1
        hidden = m.d_mlp if not m.num_experts else m.size_of_expert * m.experts_per_token
        wide = 2 * attentions * (m.num_heads + 2 * m.num_kv_heads) * m.size_of_head
        wide += 2 * (2 if m.is_gated else 1) * hidden
        stream = (2 + 2 * attentions) * m.d_model / (layout.tensor if workload.divides_length else 1)
        total += m.num_layers * tokens * (wide / layout.tensor + stream)
    return total / layout.stage
