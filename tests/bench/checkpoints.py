"""What saving costs a run, and how long a run takes to its first step: from nothing, from the cache, from a checkpoint.

    python -m tests.bench.checkpoints

It writes tests/bench/results/checkpoints.json and docs/checkpoints.md. Runs of configs/tiny.py are started as
users do, and ended by Ctrl-C; then the state of such a run is saved and restored beside copies of a file of its size.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from etils import epath

from configs import tiny
from parallel import make_mesh
from tests.bench.results import ROOT, save
from train import init_state
from train.checkpoint import Checkpoints
from train.runtime import set_up
from train.state import abstract_state, restore_state, save_state

EVERY, SAVES, ROUNDS = 100, 3, 5
FIRST_STEP = "First step after "

HEADER = f"""# Saving and starting

Runs of `configs/tiny.py` on {{devices}}. `python -m tests.bench.checkpoints` wrote this page.

A checkpoint is saved every {EVERY} steps, in the background. Saving holds the loop up for {{stall:.1f}} ms, which is
**{{share:.2%}}** of the {EVERY} steps of {{step:.0f}} ms between two saves. The ten steps after a save, while it is
written, take {{after:.3f}} times as long as others (medians of {{saves}} saves).

Seconds from the command to the end of the first step, and programs that the compilation cache had:

| start | seconds | programs |
| --- | --- | --- |
"""
FILES = """
The state has {size:.1f} MB. Medians of {rounds} rounds in which all take turns; what is written is waited for.

| | seconds | of the copy |
| --- | --- | --- |
"""
STARTS = {
    "cold": "a new run, nothing compiled before",
    "warm": "a new run, its programs in the cache",
    "continued": "the same command after Ctrl-C, from its checkpoint",
}


def run(workdir: Path, cache: Path, steps: int) -> tuple[float, str]:
    """Starts a run, or continues one, and interrupts it after so many steps of it are on record, 0 after the first.

    Returns:
        Seconds until it says that its first step is done, and what else it says there.
    """
    overrides = (f"--config.compile_cache={cache}", "--config.train.eval_every=0", "--config.train.steps=100000")
    saves = f"--config.train.checkpoint_every={EVERY}"
    command = [sys.executable, "-m", "train", "--config=configs/tiny.py", f"--workdir={workdir}", *overrides, saves]
    began, seconds, said = time.perf_counter(), 0.0, ""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if FIRST_STEP in line:
                seconds, said = time.perf_counter() - began, line.partition("; ")[2].strip()
                break
        while process.poll() is None and steps and last_step(workdir) < steps:
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        lines += process.stderr.readlines()
    if not seconds:
        raise RuntimeError("".join(lines))
    return seconds, said


def records(workdir: Path) -> list[dict[str, Any]]:
    """Lines of training steps, complete ones."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n") and "step_time" in line]


def last_step(workdir: Path) -> int:
    """The last on record, or 0."""
    return max((record["step"] for record in records(workdir)), default=0)


def cost_of_saving(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Of the lines of a run: what a save takes of the steps between two.

    Args:
        lines: one for each ten steps, as `records` reads them; a save's time is in the line after it.

    Returns:
        "stall", seconds that a save holds the loop up; "step", seconds of a step in the lines without a save; "share",
        the former of so many steps as there are between two saves; and "after", the time of the steps after a save,
        without what it held up, over that of others; medians.
    """
    kept = lines[1:]  # the first still warms up
    with_save = [line for line in kept if line["checkpoint_stall"]]
    step = statistics.median(line["step_time"] for line in kept if not line["checkpoint_stall"])
    stall = statistics.median(line["checkpoint_stall"] for line in with_save)
    tens = [line["step_time"] - line["checkpoint_stall"] / 10 for line in with_save]
    return {"stall": stall, "step": step, "share": stall / (EVERY * step), "after": statistics.median(tens) / step}


def files() -> dict[str, float]:
    """Bytes of a state, and seconds to save, restore and copy it."""
    config = tiny.get_config()
    set_up("")
    mesh = make_mesh(config.mesh)
    state = jax.block_until_ready(init_state(config, mesh))
    took: dict[str, list[float]] = {"copy": [], "save": [], "restore": []}
    with tempfile.TemporaryDirectory(dir=ROOT) as directory:
        original, checkpoints = Path(directory) / "bytes", Checkpoints(epath.Path(directory))
        saved = (state.params, state.opt_state)
        original.write_bytes(os.urandom(sum(leaf.nbytes for leaf in jax.tree.leaves(saved))))

        def save_one(i: int) -> None:
            save_state(checkpoints, i, state)
            checkpoints.wait()

        def copy_one(i: int) -> None:
            copied = shutil.copyfile(original, original.with_name(f"copy{i}"))
            with copied.open("rb") as file:
                os.fsync(file.fileno())

        def restore_one(i: int) -> None:
            jax.block_until_ready(restore_state(checkpoints, i, abstract_state(config, mesh)).params)

        ways: dict[str, Callable[[int], None]] = {"copy": copy_one, "save": save_one, "restore": restore_one}
        for i in range(1, ROUNDS + 2):
            for name, way in ways.items():
                began = time.perf_counter()
                way(i)
                took[name].append(time.perf_counter() - began)
        checkpoints.close()
        size = original.stat().st_size
    return {"bytes": size} | {name: statistics.median(seconds[1:]) for name, seconds in took.items()}


def markdown(row: dict[str, Any]) -> str:
    """The page for the docs."""
    saving = row["saving"]
    lines = HEADER.format(
        devices=row["devices"],
        stall=1e3 * saving["stall"],
        share=saving["share"],
        step=1e3 * saving["step"],
        after=saving["after"],
        saves=SAVES,
    )
    for name, text in STARTS.items():
        seconds, said = row["starts"][name]
        lines += f"| {text} | {seconds:.1f} | {said} |\n"
    lines += FILES.format(size=row["files"]["bytes"] / 1e6, rounds=ROUNDS)
    texts = {"copy": "copy of a file", "save": "save, to its end", "restore": "restore"}
    for name, text in texts.items():
        lines += f"| {text} | {row['files'][name]:.3f} | {row['files'][name] / row['files']['copy']:.1f} |\n"
    return lines


def main() -> None:
    """Runs, saves and restores."""
    with tempfile.TemporaryDirectory() as directory:
        cache, first, second = (Path(directory) / name for name in ("cache", "first", "second"))
        run(Path(directory) / "prepared", Path(directory) / "unused", 0)  # the corpus, if it is not there
        starts = {"cold": run(first, cache, EVERY * SAVES + 20)}
        saving = cost_of_saving(records(first))
        starts["warm"] = run(second, cache, 0)
        starts["continued"] = run(first, cache, 0)
    cpus, kind = os.cpu_count(), jax.devices()[0].device_kind
    devices = f"{jax.device_count()} {kind} with {cpus} cores"
    row = {"devices": devices, "saving": saving, "starts": starts, "files": files()}
    save("checkpoints", row, markdown(row))


if __name__ == "__main__":
    main()
