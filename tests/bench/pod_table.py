"""Compiles the step of every pod config for its machine, and writes what the compiler says of it.

    JAX_PLATFORMS=cpu python -m tests.bench.pod_table [gpt2_124m_v5e_8 ...]

It writes tests/bench/results/pods.json and docs/pods.md after each pod, the smallest first. A pod of which the JSON has
a row of the same program and compiler is not compiled again, so what was broken off can be gone on with. Pods
whose compiler is not installed here are left out: those of GPUs need the extra [cuda], those of TPUs [tpu].
"""

import sys
from collections.abc import Sequence
from typing import Any

from parallel import parse_machine
from parallel.compiler_options import OPTIONS
from tests.bench.pods import PODS, Pod, as_it_is, changes_of, config_of, known_rows
from tests.bench.results import compilers, key_of_step, save
from train.compile import compile_step
from train.compiled import Reading
from train.words import GIB, axes_in_words

# A minute of CPU time first, half an hour last; of two that take as long, as `PODS` has them.
FIRST = ("gpt2_124m_v5e_8", "bert_large_v5e_8", "gpt2_1b5_v5e_8", "llama3_8b_v5p_64", "t5_11b_v5p_64")
FIRST += ("mixtral_8x7b_v5p_64", "llama3_8b_v5e_64", "llama3_70b_v5p_512", "llama3_8b_v6e_256")
# Of a step: what its bounds are made of, and the two.
SECONDS = ("compute", "attention", "experts", "ici", "dcn", "overlapped", "serial")


def row_of(name: str, pod: Pod, reading: Reading, key: str) -> dict[str, Any]:
    """A pod's figures; bytes and seconds."""
    memory, axes = reading.memory, {axis: size for axis, size in reading.mesh.items() if size > 1}
    on_paper = as_it_is(name, pod, reading.machine)[0].best.memory
    row: dict[str, Any] = {
        "name": name,
        "topology": pod.topology,
        "num_slices": pod.num_slices,
        "changes": changes_of(name, pod),
        "key": key,
        "versions": compilers(reading.machine),
        "options": options_of(pod),
        "mesh": axes,
        "on_paper": on_paper.total,
        "largest_on_paper": max(on_paper.terms, key=lambda term: on_paper.terms[term]),
        "needed": memory.needed,
        "available": memory.available,
        "fits": memory.fits,
        "compile_s": round(reading.compile_s, 1),
        "messages": list(reading.messages),
    }
    if memory.by_compiler:
        return row
    return row | {
        "collectives": [
            {"kind": kind, "axes": list(along), "tensors": total.tensors, "bytes": total.bytes}
            for (kind, along), total in reading.totals.items()
        ],
        "seconds": {name: getattr(reading, f"{name}_s") for name in SECONDS},
        "mfu": {"overlapped": reading.mfu(reading.overlapped_s), "serial": reading.mfu(reading.serial_s)},
        "has_cycles": reading.has_cycles,
        "tokens": reading.tokens,
        "binds": "compute" if reading.compute_s >= reading.network_s else "network",
    }


def options_of(pod: Pod) -> dict[str, Any]:
    """Those that its compiler is given."""
    return OPTIONS.get(parse_machine(pod.topology, pod.num_slices).chip.name, {})


def main(names: Sequence[str] = ()) -> None:
    """Compiles what is not there yet, one pod after the other."""
    for name in names or sorted(PODS, key=lambda name: (*FIRST, name).index(name)):
        pod, config = PODS[name], config_of(name)
        machine = parse_machine(pod.topology, pod.num_slices)
        try:
            key = key_of_step(config, machine)
            if known_rows().get(name, {}).get("key") == key:
                continue
            reading = compile_step(config, machine)
        except ValueError as error:
            if "is not installed" not in str(error):
                raise
            print(f"{name} is left out. {error}", flush=True)
            continue
        rows = known_rows() | {name: row_of(name, pod, reading, key)}  # read again: another process may have added
        ordered = [rows[name] for name in PODS if name in rows]
        save("pods", ordered, markdown(rows), packages=("jax", "jaxlib"), done="Compiled")


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table for the docs."""
    found = [(name, rows[name]) for name in PODS if name in rows]
    fitting = sum(row["fits"] for _, row in found)
    lines = [
        "# The pod configs, compiled",
        "",
        "The step of each scale file of `configs/`, compiled ahead of time by XLA's compiler for its machine, which",
        f"was not there. {fitting} of {len(found)} fit, by the compiler's own word.",
        "Nothing here is measured: the two bounds of a step's time are estimates, from the cycles that the compiler",
        "gives its operations (of GPUs it gives none, and the operations are counted on paper), the kernels of",
        "attention and experts on paper, and the bytes of the collectives over all links of a device",
        "(`train/compiled.py`). Bytes are of one device in one step, of an all-gather what it makes and of the rest",
        "what it is given.",
        "",
        "| config | machine | mesh | GiB on paper | needed of available | fits | GB moved by kind | step s, "
        "overlapped / serial | MFU bound | binds | compiled in |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(name, row) for name, row in found]
    missing = [name for name in PODS if name not in rows]
    lines += ["", f"Not compiled yet: {', '.join(missing)}."] if missing else []
    off = {name: row["on_paper"] / row["needed"] - 1 for name, row in found}
    far = [
        f"{name} ({off[name]:+.0%}; most is {row['largest_on_paper']})" for name, row in found if abs(off[name]) > 0.1
    ]
    lines += ["", f"Memory on paper is within 10% of the compiler's in {len(found) - len(far)} of {len(found)}."]
    lines += [f"Not in: {', '.join(far)}."] if far else []
    before = [name for name, row in found if row["options"] != options_of(PODS[name])]
    if before:
        lines += ["", f"Compiled with fewer options than `parallel/compiler_options.py` has now: {', '.join(before)}."]
    before = [
        name for name, row in found if "experts" not in row.get("seconds", ()) and config_of(name).model.num_experts
    ]
    if before:
        lines += ["", f"Compiled before a kernel made the gradients of experts' matrices: {', '.join(before)}."]
    return "\n".join(lines) + "\n"


def _line(name: str, row: dict[str, Any]) -> str:
    machine = row["topology"] + (f" x {row['num_slices']}" if row["num_slices"] > 1 else "")
    start = f"| {name} | {machine} | {axes_in_words(row['mesh'])} | "
    start += f"{row['on_paper'] / GIB:.2f} | {row['needed'] / GIB:.2f} of "
    start += f"{row['available'] / GIB:.2f} | {'yes' if row['fits'] else 'NO'} | "
    if "seconds" not in row:
        return f"{start}| | | | {row['compile_s']:.0f} s |"
    moved: dict[str, int] = {}
    for one in row["collectives"]:
        moved[one["kind"]] = moved.get(one["kind"], 0) + one["bytes"]
    network = ", ".join(f"{kind} {size / 1e9:,.1f}" for kind, size in sorted(moved.items(), key=lambda pair: -pair[1]))
    seconds, mfu = row["seconds"], row["mfu"]
    return (
        f"{start}{network or 'none'} | {seconds['overlapped']:.3g} / {seconds['serial']:.3g} | {mfu['overlapped']:.1%} "
        f"/ {mfu['serial']:.1%} | {row['binds']} | {row['compile_s']:.0f} s |"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
