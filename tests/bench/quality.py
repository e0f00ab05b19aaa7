"""Compiles published runs of another training stack for their pods, step by step of what was tuned.

    JAX_PLATFORMS=cpu python -m tests.bench.quality [llama3_8b llama3_70b llama2_70b]

A compile takes minutes of CPU time and 5 GB. It writes after each; what is there already of the same versions is not
compiled again, but for the runs that are named.
"""

import importlib
import json
import sys
from importlib.metadata import version
from typing import Any, NamedTuple

import jax

from parallel import parse_machine
from tests.bench.results import ROOT, save
from train.compile import compile_step
from train.compiled import Reading
from train.words import GIB

GB = 1e9
MOVED = ("all-gather", "all-reduce")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu")


class Run(NamedTuple):
    """A run.

    Attributes:
        what: in words.
        topology: the pod.
        shape: what makes the config in configs/ the run that was published.
        theirs: MFU of MaxText's step, overlapped and serial, compiled for that pod and read in the same way; measured
            by whoever wrote the task of this benchmark.
        changes: of the config, one on top of the other, each in words.
    """

    what: str
    topology: str
    shape: dict[str, Any]
    theirs: tuple[float, float]
    changes: dict[str, dict[str, Any]]


INTRODUCTION = """\
The train step, with RoPE, segment ids, clipping and AdamW, compiled here for pods that need not be there (`python -m
train.compile`), beside MaxText's own step for the same model, pod, rows and length, read in the same way. All of it
is **estimated, not measured**: the compiler's cycles of all operations but attention's kernels; those by their
operations, at the peak on v5p and at half of it on v6e, whose units are wider than a head; bytes of all-gathers, and
twice those of all-reduces, at 540 GB/s on v5p and 360 GB/s on v6e. MFU counts a causal attention's operations once.
*Overlapped* hides the shorter of computation and communication behind the longer, *serial* adds them. What goes to
the host and back is in neither: it has to be little enough to hide, and where much waits there, what a chip needs is
told as at most so much (`train/device_memory.py`). MaxText's figures are not from this benchmark:
whoever asked for it had measured them, with a reading that lay within 10% of published step times.
"""
FSDP = {"mesh.data": 1, "mesh.fsdp": -1}
BEFORE = "before: layers computed again"
KEPT = "kept by name, in part on the host; attention in blocks of 1,024"
REPLICAS = "two replicas: all-gathers over half of the pod stay all-gathers"
CHUNKED = {"train.objective": "auto,chunk=512"}
# One kernel for all gradients writes a part of the queries' for each block of keys; their sum takes more than it saves.
WIDE = {"model.attention": "splash,block=1024"}
SOME = WIDE | {"model.remat": "names,keep=qkv+attention_out,offload=layer_input+attention_sum"}
LITTLE = WIDE | {"model.remat": "names,offload=layer_input+attention_out"}
RUNS = {
    "llama3_8b": Run(
        "Llama 3 8B, 8,192 tokens, 4 rows a chip",
        "v6e:16x16",
        FSDP | CHUNKED | {"data.batch_size": 1024},
        (0.423, 0.407),
        {BEFORE: {}, KEPT: SOME, REPLICAS: {"mesh.data": 2}},
    ),
    "llama3_70b": Run(
        "Llama 3 70B, 8,192 tokens, 5 rows a chip",
        "v6e:16x16",
        FSDP | CHUNKED | {"data.batch_size": 1280},
        (0.517, 0.497),
        {BEFORE: {}, KEPT: LITTLE, REPLICAS: {"mesh.data": 2}},
    ),
    "llama2_70b": Run(
        "Llama 2 70B, 4,096 tokens, 4 rows a chip",
        "v5p:8x8x8",
        FSDP | {"data.batch_size": 2048},
        (0.651, 0.624),
        {BEFORE: {}, KEPT: SOME, REPLICAS: {"mesh.data": 2}},
    ),
}


def config_of(name: str, changes: dict[str, Any]) -> Any:
    """The config of a run with some changes."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(RUNS[name].shape | changes)
    return config


def row_of(name: str, what: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The figures of one compiled step."""
    reading = compile_step(config_of(name, changes), parse_machine(RUNS[name].topology))
    row = {"run": name, "what": what, "changes": changes, "fits": reading.memory.fits}
    row |= {"needed": reading.memory.needed, "available": reading.memory.available, "host": reading.memory.host}
    return row | ({} if reading.memory.by_compiler else figures(reading))


def figures(reading: Reading) -> dict[str, Any]:
    """What the reading says of a step's time."""
    moved = {
        kind: sum(t.bytes for (k, _), t in reading.totals.items() if k == kind) for kind in ("all-gather", "all-reduce")
    }
    return {
        "cycles": reading.work.total_cycles,
        "operations_s": reading.compute_s - reading.kernels_s,
        "attention_s": reading.attention_s,
        "network_s": reading.network_s,
        "moved": moved,
        "overlapped": reading.mfu(reading.overlapped_s),
        "serial": reading.mfu(reading.serial_s),
        "rematerializes": bool(reading.messages),
        "compile_s": reading.compile_s,
    }


def main(names: list[str]) -> None:
    """Compiles what is not there yet, and writes after each."""
    jax.config.update("jax_platforms", "cpu")
    path = ROOT / "tests" / "bench" / "results" / "quality.json"
    kept = json.loads(path.read_text()) if path.exists() else {"rows": [], "versions": {}}
    versions = {package: version(package) for package in PACKAGES}
    rows = kept["rows"] if kept["versions"] == versions else []
    rows = [row for row in rows if row["run"] not in names]
    for name in names or RUNS:
        together: dict[str, Any] = {}
        for what, changes in RUNS[name].changes.items():
            together |= changes
            if not any((row["run"], row["what"], row["changes"]) == (name, what, together) for row in rows):
                rows.append(row_of(name, what, dict(together)))
            save("quality", rows, markdown(rows), packages=PACKAGES, done="Compiled")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Plans beside those of another stack",
        "",
        *INTRODUCTION.splitlines(),
        "",
    ]
    for name, run in RUNS.items():
        lines += [f"## {run.what}, on {run.topology}", "", *table(run, [row for row in rows if row["run"] == name]), ""]
    return "\n".join(lines)


def table(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """Before and after each change, and MaxText."""
    lines = [
        "| | cycles, millions | operations s | attention s | network s | all-gather GB | all-reduce GB | GiB a chip "
        "| on the host | MFU overlapped | serial |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        memory = f"{row['needed'] / GIB:.1f} of {row['available'] / GIB:.1f} | {row['host'] / GIB:.1f}"
        if "cycles" not in row:
            lines.append(f"| {row['what']} | | | | | | | {memory} | does not fit | |")
            continue
        seconds = " | ".join(f"{row[key]:.2f}" for key in ("operations_s", "attention_s", "network_s"))
        moved = " | ".join(f"{row['moved'][kind] / GB:,.0f}" for kind in MOVED)
        mfu = f"{row['overlapped']:.1%} | {row['serial']:.1%}"
        lines.append(f"| {row['what']} | {row['cycles'] / 1e6:,.0f} | {seconds} | {moved} | {memory} | {mfu} |")
    overlapped, serial = run.theirs
    lines.append(f"| MaxText | | | | | | | | | {overlapped:.1%} | {serial:.1%} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
