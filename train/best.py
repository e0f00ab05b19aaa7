"""The best evaluation of a run: its checkpoint is kept and used, and training ends when no better one comes.

    --config.train.best=accuracy,mode=max,patience=3

Each checkpoint says which evaluation was the best when it was made, so that a restart, on any number of processes,
goes on from there as if nothing had happened.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from data.options import choose

from .checkpoint import Checkpoints

_FALLING = ("loss", "perplexity", "bits_per_byte")  # metrics of which less is better
MODES = ("min", "max")


@dataclasses.dataclass
class Best:
    """The best evaluation so far, by `config.train.best`.

    Attributes:
        metric: a key of what `train.evaluate` returns, or "" for none.
        mode: "min" or "max".
        patience: evaluations without a better one that end the training; 0 is never.
        step: of the best evaluation, or None.
        value: of its metric.
        worse: evaluations since then.
    """

    metric: str
    mode: str = "min"
    patience: int = 0
    step: int | None = None
    value: float = math.nan
    worse: int = 0

    @classmethod
    def of(cls, config: Any) -> "Best":
        """That of a config, before any evaluation.

        Raises:
            ValueError: it names the key, the value and a legal choice.
        """
        key, text = "config.train.best", config.train.best
        if not text:
            return cls("")
        metric = text.partition(",")[0].strip()

        def of_metric(*, mode: str = "min" if metric in _FALLING else "max", patience: int = 0) -> Best:
            return cls(metric, mode, patience)

        best = choose(key, text, {metric: of_metric}).make()
        if best.mode not in MODES or best.patience < 0:
            raise ValueError(f"{key}={text!r}: mode must be one of {', '.join(MODES)}, and patience 0 (never) or more")
        if not config.train.eval_every:
            raise ValueError(f"{key}={text!r} chooses among evaluations: config.train.eval_every=0 must be above 0")
        return best

    def check(self, metrics: Iterable[str]) -> None:
        """Checks that the metric is one of those that there are.

        Raises:
            ValueError: it is not; it names them.
        """
        if self.metric and self.metric not in metrics:
            raise ValueError(f"config.train.best={self.metric!r} is no metric here; use one of {', '.join(metrics)}")

    def see(self, step: int, values: Mapping[str, float]) -> None:
        """Takes an evaluation into account; of equal ones the first stays, and NaN or none is never better."""
        if not self.metric:
            return
        value = values.get(self.metric, math.nan)  # a few batches may lack a kind of spans, and its figure
        is_better = value < self.value if self.mode == "min" else value > self.value
        if is_better or (self.step is None and not math.isnan(value)):
            self.step, self.value, self.worse = step, value, 0
        else:
            self.worse += 1

    @property
    def has_ended(self) -> bool:
        """Whether patience is at its end."""
        return bool(self.metric and self.patience and self.worse >= self.patience)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        if self.step is None:
            return {}
        return {"best": {"metric": self.metric, "step": self.step, "value": self.value, "worse": self.worse}}

    def recall(self, checkpoints: Checkpoints, step: int) -> None:
        """Takes up what the checkpoint of a step says; of another metric it says nothing."""
        said = checkpoints.facts(step).get("best", {}) if self.metric else {}
        if said.get("metric") == self.metric:
            self.step, self.value, self.worse = said["step"], said["value"], said["worse"]


def best_step(config: Any, checkpoints: Checkpoints, latest: int) -> int:
    """The step of the checkpoint that a run is used with: the best one if it keeps it, or else the latest."""
    best = Best.of(config)
    best.recall(checkpoints, latest)
    return latest if best.step is None or not checkpoints.has(best.step) else best.step
