"""A student of 4 layers that learns from a teacher of 8, beside one that learns alone from the same tokens.

    python -m tests.bench.distillation

All are trained on the source files of Python's standard library, the students on the same batches. It takes about 12
minutes on two CPU cores and writes tests/bench/results/distillation.json and docs/distillation.md; a fraction of the
steps, such as 0.02, only tries it and writes nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from configs import tiny
from tests.bench.results import ROOT, save
from train.metrics import read_metrics

TEACHER_STEPS, STUDENT_STEPS = 260, 150
DISTILL = "distill,teacher={},temperature=2,weight=0.7"


def make_config(num_layers: int, steps: int, objective: str = "") -> Any:
    """The tiny config with another depth and length."""
    config = tiny.get_config()
    config.model.update(num_layers=num_layers, scan_unroll=num_layers)
    config.optimizer.warmup_steps = min(30, steps // 4)
    config.optimizer.schedule = f"wsd,decay_steps={max(1, steps * 6 // 10)},final_fraction=0"
    config.train.update(steps=steps, eval_every=max(1, steps // 5), checkpoint_every=steps, keep_checkpoints=1)
    config.sample.prompts = ()
    if objective:
        config.train.objective = objective
    return config


def run(name: str, config: Any, directory: Path) -> dict[str, Any]:
    """Trains in a process of its own, on one device; the last figures and the validation curve."""
    config.name = name
    file = directory / f"{name}.json"
    file.write_text(json.dumps(config.to_dict()))
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    began = time.monotonic()
    command = [sys.executable, "-m", "train", f"--config={file}", f"--workdir={directory / name}"]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    records = [record for record in read_metrics(directory / name) if "valid_loss" in record]
    row = {
        "run": name,
        "layers": config.model.num_layers,
        "steps": config.train.steps,
        "tokens": config.train.steps * config.data.batch_size * config.data.seq_len,
        "loss": records[-1]["valid_loss"],
        "bits_per_byte": records[-1]["valid_bits_per_byte"],
        "seconds": round(time.monotonic() - began),
        "curve": [(record["step"], record["valid_loss"]) for record in records],
    }
    print(f"{name}: {row['loss']:.4f} nats per token after {row['seconds']} s", flush=True)
    return row


def main(fraction: float = 1.0) -> list[dict[str, Any]]:
    """Trains the three, and writes the table if they ran in full."""
    teacher_steps, steps = (max(4, round(fraction * number)) for number in (TEACHER_STEPS, STUDENT_STEPS))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        rows = [
            run("teacher", make_config(8, teacher_steps), directory),
            run("alone", make_config(4, steps), directory),
            run("distilled", make_config(4, steps, DISTILL.format(directory / "teacher")), directory),
        ]
    page = markdown(rows)
    if fraction == 1.0:
        save("distillation", rows, page)
    else:
        print(page)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page for the docs."""
    lines = [
        "# Distillation",
        "",
        "A student of 4 layers, alone and with a teacher of 8 layers, on the same batches of the source files of",
        "Python's standard library. Figures are of the whole validation split. The objective with the teacher:",
        f"`{DISTILL.format('runs/teacher')}`.",
        "",
        "| run | layers | updates | tokens | nats per token | bits per byte |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['run']} | {row['layers']} | {row['steps']} | {row['tokens']:,} | {row['loss']:.4f} | "
            f"{row['bits_per_byte']:.4f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
