"""A bound on the time of a train step, from the chip's peaks: never a measurement.

Three things take time, and the slowest binds if all overlap (the roofline of Williams et al. 2009,
doi:10.1145/1498765.1498785; for networks Austin et al. 2025, jax-ml.github.io/scaling-book/roofline):

- compute: the matmuls (`model.flops`), with what remat does again, over the peak of the dtype;
- memory: what must pass between the chip's memory and its matrix units, over the bandwidth of HBM;
- network: the collectives of `train.budget`, over the links that their axes have (`parallel.links`).

A pipeline makes all of it longer by the share of the time in which a stage waits. If nothing overlaps with the
network, its time comes on top: the real step lies between, if kernels reach their peak.
"""

import dataclasses
from collections.abc import Mapping

from model import attention_flops, recomputed_flops
from parallel import NO_REDUCE_SCATTER, Link, Machine

from .budget import LOWERINGS, budget_of
from .layout import Layout
from .memory import cast_weights, gradients, kept_bytes
from .workload import Workload


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Bounds of a step, in seconds; estimates.

    Attributes:
        compute: of the matmuls.
        memory: of HBM traffic.
        network: of the collectives.
        by_axis: of it, along each mesh axis.
        waiting: share of the time in which a stage of a pipeline waits.
        model_flops: operations of the model in a step, of all devices together, that MFU counts.
        peak: operations a second of all devices together.
        tokens: of a step.
    """

    compute: float
    memory: float
    network: float
    by_axis: Mapping[str, float]
    waiting: float
    model_flops: float
    peak: float
    tokens: int

    @property
    def overlapped(self) -> float:
        """If all three overlap."""
        return max(self.compute, self.memory, self.network) / (1 - self.waiting)

    @property
    def serial(self) -> float:
        """If the network is waited for."""
        return (max(self.compute, self.memory) + self.network) / (1 - self.waiting)

    @property
    def binds(self) -> str:
        """Which of the three takes longest."""
        times = {"compute": self.compute, "memory": self.memory, "network": self.network}
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
    chip, model = machine.chip, workload.model
    executed = workload.flops
    if not layout.is_fused:  # what the mask hides is computed too
        hidden = attention_flops(model, workload.length, causal=False) - attention_flops(model, workload.length)
        executed += 3 * workload.rows * hidden
    again = recomputed_flops(model, workload.length, layout.remat, fused=layout.is_fused)
    # A stage computes its layers again from their inputs, whatever they keep within.
    if layout.stage > 1:
        again += recomputed_flops(model, workload.length, "full", fused=layout.is_fused)
    peak = peak_flops_of(machine, model.dtype)
    by_axis = _network(workload, layout, machine, links)
    return StepTime(
        compute=(executed + workload.rows * again) / layout.num_devices / peak,
        memory=_traffic(workload, layout) / chip.hbm_bandwidth,
        network=sum(by_axis.values()),
        by_axis=by_axis,
        waiting=_waiting(workload, layout),
        model_flops=workload.flops,
        peak=peak * layout.num_devices,
        tokens=workload.tokens,
    )


def peak_flops_of(machine: Machine, dtype: str) -> float:
    """Of a device; TPUs multiply float32 in one pass of bfloat16, unless more precision is asked for."""
    peaks = machine.chip.peak_flops
    return peaks["bfloat16"] if machine.chip.platform == "tpu" else peaks.get(dtype, peaks["bfloat16"])


def _waiting(workload: Workload, layout: Layout) -> float:
    """(S - 1) / (C M + S - 1) of a pipeline's time; with a split backward pass, two thirds of its wait."""
    if layout.stage == 1:
        return 0.0
    waits = (layout.stage - 1) * (2 / 3 if layout.schedule == "zero_bubble" else 1.0)
    return waits / (layout.chunks * layout.microbatches(workload) + waits)


def _network(workload: Workload, layout: Layout, machine: Machine, links: Mapping[str, Link]) -> dict[str, float]:
    """Seconds along each mesh axis, one after the other."""
    platform = machine.chip.platform if machine.chip.platform in LOWERINGS else "cpu"
    reduce_scatters = machine.chip.name not in NO_REDUCE_SCATTER
    seconds: dict[str, float] = {}
    for row in budget_of(workload, layout, platform):
        one = links[row.axis].seconds(row.kind, row.total.bytes, reduce_scatters=reduce_scatters)
        seconds[row.axis] = seconds.get(row.axis, 0.0) + one
    return seconds


def _traffic(workload: Workload, layout: Layout) -> float:
    """Bytes between a chip and its HBM in a step; what fusion can avoid is not counted.

    - update: parameters, moments and gradients are read, parameters and moments written;
    - weights: cast once, and read by the forward pass, the backward one and its recomputation in each microbatch, and
      their gradients written, and with several microbatches read and written again;
    - activations: what is kept is written and read, and of each layer's inputs and outputs, 4 D + 2 (N + 2 K) H +
      2 (gates) F numbers a token, as much is written and read in each pass;
    - a plain attention writes and reads its logits and probabilities, in the backward pass with their gradients;
    - logits are written, and read by the softmax and by the two matmuls of their gradient.
    """
    m, a, M = workload.model, workload.itemsize, layout.microbatches(workload)
    sizes, tokens = layout.sizes, layout.tokens(workload)
    held = workload.shard_bytes("params", sizes) + workload.shard_bytes("moments", sizes, "moment")
    grads = gradients(workload, sizes)
    update = 2 * held + grads
    layers = (m.num_layers + (m.encoder.num_layers if m.encoder else 0)) / layout.stage
    passes = 2 if layout.remat == "none" else 3
    weights = 3 * cast_weights(workload, layout) + passes * M * cast_weights(workload, layout) * layout.fsdp
    weights += grads * (1 if M == 1 else 3 * M)
    gates = 2 if m.is_gated else 1
    hidden = m.d_mlp if not m.num_experts else m.size_of_expert * m.experts_per_token
    wide = (2 * (m.num_heads + 2 * m.num_kv_heads) * m.size_of_head + 2 * gates * hidden) / layout.tensor
    stream = 4 * m.d_model / (layout.tensor if workload.divides_length else 1)
    activations = 2 * kept_bytes(workload, layout) * M / layout.stage
    activations += (passes + 1) * layers * M * tokens * (wide + stream) * a
    pairs = 0.0
    if not layout.is_fused:
        pairs = (passes + 1) * layers * M * tokens * workload.length * m.num_heads / layout.tensor * 2 * (4 + a)
    logits = 4 * tokens * M * m.padded_vocab_size * 4 / layout.tensor / layout.stage
    return update + weights + activations + pairs + logits
