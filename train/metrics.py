"""What a run reports: metrics.jsonl, TensorBoard events, a progress bar, and throughput beside the hardware's peak.

A line of metrics.jsonl is either of a training step ("loss" and so on) or of an evaluation ("valid_loss" and so on, or,
of the best checkpoint at the end, "best_step", "best_loss" and so on); all have "step", the number of updates made. Of
the steps since the line before: "step_time" (seconds, mean), "tokens_per_second", "data_wait" (seconds a step that the
loop waited for its batch), "checkpoint_stall" (seconds in all that saving held the loop up) and, where the peak of the
device is known, "mfu" (share of it, 0 to 1; of products in 8 bits see `train.precision`).
"""

import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Self

import jax
import tqdm
from etils import epath
from jax import Array

from parallel import to_host

from .workdir import replace_file


class Recorder:
    """Writes metrics; fetches those of a training step only when the next is due, so that dispatch never waits.

    Args:
        workdir: the run's directory.
        start: the step that training continues from; what was recorded after it is dropped, to be recorded again.
        num_steps: steps of the whole run, for the progress bar.
        tokens_per_row: tokens in a row of a batch, padding included.
        peak: FLOP/s of all devices together, None if not known.
        writes: whether this process writes files and shows the bar; one of them does.
        chooses_best: whether the run ends with an evaluation of its best checkpoint, besides that of the last step.
    """

    def __init__(
        self,
        workdir: epath.Path,
        *,
        start: int,
        num_steps: int,
        tokens_per_row: int,
        peak: float | None,
        writes: bool,
        chooses_best: bool = False,
    ):
        self._path = workdir / "metrics.jsonl"
        self._tokens, self._peak = tokens_per_row, peak
        self._pending: deque[tuple[int, dict[str, Array], dict[str, float]]] = deque()
        self._lines: list[str] = []
        self._writer = None
        self._bar = tqdm.tqdm(
            total=num_steps,
            initial=start,
            unit="step",
            disable=not writes,
            mininterval=0.1 if sys.stderr.isatty() else 30.0,  # a log file need not see it move
        )
        if writes:
            import tensorboardX  # here, as it imports torch wherever that is installed, which takes seconds

            lines = _read_lines(self._path)
            last = None if chooses_best else num_steps
            self._lines = [line for line in lines if _stays(json.loads(line), start, last)]
            replace_file(self._path, "".join(self._lines).encode())
            self._writer = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self._compiled: set[tuple[int, float]] = set()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begins a new interval, leaving out what went before it, such as a compilation."""
        self._since, self._steps, self._rows, self._data_wait, self._stall = time.perf_counter(), 0, 0, 0.0, 0.0
        self._flops = 0.0

    def count_step(self, *, rows: int, flops_per_row: float, data_wait: float) -> None:
        """Notes a step, the rows of its batch, the operations of each, and the seconds that it waited for it.

        The first of each size, which compiles, is left out with all before it.
        """
        self._bar.update()
        if (rows, flops_per_row) not in self._compiled:
            self._compiled.add((rows, flops_per_row))
            self.restart_clock()
            return
        self._steps += 1
        self._rows += rows
        self._flops += rows * flops_per_row
        self._data_wait += data_wait

    @contextlib.contextmanager
    def pause(self, metrics: dict[str, Array]) -> Iterator[None]:
        """Keeps what is done within out of the throughput, once the steps before it have ended."""
        jax.block_until_ready(metrics)
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    @contextlib.contextmanager
    def stall(self, metrics: dict[str, Array]) -> Iterator[None]:
        """Counts what is done within as time that saving held the loop up."""
        jax.block_until_ready(metrics)
        began = time.perf_counter()
        yield
        self._stall += time.perf_counter() - began

    def train(self, step: int, metrics: dict[str, Array]) -> None:
        """Records a step's metrics, and writes those that were recorded before."""
        timing = {}
        if self._steps:
            seconds = time.perf_counter() - self._since
            timing["step_time"] = seconds / self._steps
            timing["tokens_per_second"] = self._tokens * self._rows / seconds
            timing["data_wait"] = self._data_wait / self._steps
            timing["checkpoint_stall"] = self._stall
            if self._peak:
                timing["mfu"] = self._flops / seconds / self._peak
        self.restart_clock()
        self.flush()
        self._pending.append((step, metrics, timing))

    def flush(self) -> None:
        """Fetches and writes what is pending."""
        while self._pending:
            step, metrics, timing = self._pending.popleft()
            values = {name: float(value) for name, value in to_host(metrics).items()} | timing
            self._write(step, values)
            rate = f", {timing['tokens_per_second']:,.0f} tokens/s" if timing else ""
            self._bar.set_postfix_str(f"loss {values['loss']:.3f}{rate}", refresh=False)

    def evaluation(self, step: int, values: dict[str, float], *, best_step: int | None = None) -> None:
        """Records an evaluation on the validation split; of the best checkpoint if its step is given."""
        self.flush()
        prefix, facts = ("valid", {}) if best_step is None else ("best", {"best_step": best_step})
        self._write(step, facts | {f"{prefix}_{name}": value for name, value in values.items()})

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if self._writer is None:
            return
        line = json.dumps({"step": step} | values) + "\n"
        self._lines.append(line)
        if "://" in str(self._path):  # object stores cannot append
            self._path.write_text("".join(self._lines))
        else:
            with self._path.open("a") as file:
                file.write(line)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.flush()
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _stays(record: dict[str, Any], start: int, num_steps: int | None) -> bool:
    """Whether a record is not made again by a run that continues from `start`."""
    is_last_evaluation = (start == num_steps and "valid_loss" in record) or "best_step" in record
    return record["step"] < start or (record["step"] == start and not is_last_evaluation)


def _read_lines(path: epath.Path) -> list[str]:
    """Whole lines of the file; a kill may have left half a line at its end."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl."""
    return [json.loads(line) for line in _read_lines(epath.Path(workdir) / "metrics.jsonl")]
