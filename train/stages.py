"""The programs of a run: batches and windows of attention that grow, each a function of the step alone."""

import copy
import math
from typing import Any, NamedTuple

from jax.sharding import AbstractMesh, Mesh

from data import Ramp, make_ramp
from parallel import BATCH_AXES


class Stage(NamedTuple):
    """What a step is compiled for.

    Attributes:
        rows: of its batch.
        window: in the place of `config.model.window`.
    """

    rows: int
    window: int


class Growth(NamedTuple):
    """How a run's batches and windows grow.

    Attributes:
        batches: rows of each step.
        windows: windows of each step; the last is `config.model.window`, or of its length if that is off.
        last: `config.model.window`.
    """

    batches: Ramp
    windows: Ramp
    last: int

    @classmethod
    def of(cls, config: Any) -> "Growth":
        """That of a config.

        Raises:
            ValueError: `config.data.batch_ramp` or `config.model.window_ramp` does not fit; it names a legal choice.
        """
        data = config.data
        return cls(make_ramp(data.batch_ramp, data.batch_size), window_ramp(config), config.model.window)

    def at(self, step: int) -> Stage:
        """The stage of a step."""
        return Stage(self.batches.size(step), self._window(self.windows.size(step)))

    @property
    def stages(self) -> dict[Stage, int]:
        """Those that there are, each with its first step."""
        starts = sorted({phase.step for ramp in (self.batches, self.windows) for phase in ramp.phases})
        return {self.at(step): step for step in starts}

    def _window(self, size: int) -> int:
        return self.last if size == self.windows.sizes[-1] else size


def window_ramp(config: Any) -> Ramp:
    """The windows of a config's steps, in positions (attention warmup, as in speed runs of GPT's training).

    Raises:
        ValueError: it does not become the whole window by doubling, has too few steps, or the model has no attention
            that a window of text would bound.
    """
    c = config.model
    whole, of = (c.window, "config.model.window") if c.window else (config.data.seq_len, "config.data.seq_len")
    if c.window_ramp:
        for field, has_none in (
            ("block", c.block == "lstm"),
            ("image", bool(c.image)),
            ("position", "local_theta" in c.position and not c.window),  # another base while there is a window
        ):
            if has_none:
                raise ValueError(
                    f"config.model.window_ramp={c.window_ramp!r} does not go with config.model.{field}={c[field]!r}"
                    f"{' and config.model.window=0' if field == 'position' else ''}; use config.model.window_ramp=''"
                )
    return make_ramp(c.window_ramp, whole, key="config.model.window_ramp", of=of)


def with_stage(config: Any, stage: Stage, mesh: Mesh | AbstractMesh) -> Any:
    """A config all of whose steps are of one stage."""
    config = with_batch_size(config, stage.rows, mesh)
    config.model.update(window=stage.window, window_ramp="")
    return config


def with_batch_size(config: Any, size: int, mesh: Mesh | AbstractMesh) -> Any:
    """A config whose batches all have a size, one of those in `config.data.batch_ramp`.

    Passes that take more rows than a device has of such a batch, or do not divide them, take fewer.

    Args:
        config: the whole config.
        size: rows of a batch.
        mesh: what they are divided over.
    """
    rows, whole = config.train.microbatch_rows, config.data.batch_size
    config = copy.deepcopy(config)
    config.data.update(batch_size=size, batch_ramp="")
    if rows > 0 and size != whole:
        config.train.microbatch_rows = math.gcd(rows, size // row_shards(mesh))
    return config


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """How many parts a mesh makes of a batch's rows."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
