"""How a step is laid out on a machine: what a planner chooses, apart from the config that says it."""

import dataclasses
import math
from typing import Any

from data.options import choose
from parallel import AXES, BATCH_AXES

from .compose import SCHEDULES
from .workload import Workload

# Attentions that write their logits to memory, of all pairs or of a block of queries, as XLA's matmuls do. The first
# keeps all probabilities for the backward pass, and computes what the mask hides.
PLAIN, WRITING = "plain", ("plain", "blocked")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a step is laid out on a machine: what a planner chooses.

    Attributes:
        stage: stages of the pipeline.
        data: replicas.
        fsdp: shards of parameters.
        expert: shards of experts.
        context: shards of the length.
        tensor: shards of heads and hidden dims.
        microbatch_rows: of a device in one pass.
        remat: as `config.model.remat` has it.
        attention: how attention is computed.
        schedule: of the stages.
        chunks: pieces of the model that a stage holds.
        context_attention: "ring" or "all_to_all".
    """

    stage: int
    data: int
    fsdp: int
    expert: int
    context: int
    tensor: int
    microbatch_rows: int
    remat: str
    attention: str
    schedule: str = "1f1b"
    chunks: int = 1
    context_attention: str = "ring"

    @property
    def sizes(self) -> dict[str, int]:
        """Of the mesh axes."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def is_ring(self) -> bool:
        """Whether keys and values go round a ring."""
        return self.context > 1 and self.context_attention == "ring"

    @property
    def keeps_probabilities(self) -> bool:
        """Whether attention has all of them at once, and keeps them."""
        return self.attention == PLAIN and not self.is_ring

    @property
    def writes_logits(self) -> bool:
        """Whether attention's logits go through memory."""
        return self.attention in WRITING or self.is_ring

    @property
    def num_devices(self) -> int:
        """All of them."""
        return self.stage * self.data * self.fsdp * self.expert * self.context * self.tensor

    def microbatches(self, workload: Workload) -> int:
        """Passes of a step."""
        return workload.rows // (self.data * self.fsdp * self.expert) // self.microbatch_rows

    def tokens(self, workload: Workload) -> float:
        """Tokens of a device in one pass, without those of an encoder."""
        return self.share_of_rows * workload.length

    def encoder_tokens(self, workload: Workload) -> float:
        """Those of an encoder."""
        return self.share_of_rows * workload.encoder_length

    @property
    def share_of_rows(self) -> float:
        """Rows of a device in one pass; of rows whose length is divided, its share."""
        return self.microbatch_rows / self.context


def layout_of(config: Any, mesh: Any, *, attention: str = "plain") -> Layout:
    """The layout that a config has on a mesh.

    Args:
        config: the whole config.
        mesh: of which the sizes matter.
        attention: as `Layout` has it.
    """
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    schedule = choose("config.mesh.schedule", config.mesh.schedule, SCHEDULES)
    return Layout(
        **mesh.shape,
        microbatch_rows=config.train.microbatch_rows or config.data.batch_size // shards,
        remat=config.model.remat,
        attention=attention,
        schedule=schedule.kind,
        chunks=schedule.make(),
        context_attention=config.mesh.context_attention,
    )
