"""Writes the scale files of the pod configs anew, each with its plan in its header.

    JAX_PLATFORMS=cpu python -m tests.bench.pods [--headers] [llama3_8b_v5p_64 ...]

A plan takes seconds of CPU time, those of 2,048 chips longer. Without names it writes all of them; nothing is compiled.
Where `tests.bench.pod_table` has compiled what a file says, its header has the compiler's figures too; `--headers`
keeps what the files say, and writes their headers anew.
"""

import importlib
import json
import sys
import textwrap
from typing import Any, NamedTuple

from data.command_line import flatten
from parallel import AXES, Machine, parse_machine
from tests.bench.results import ROOT
from train.candidates import HEADROOM
from train.plan_changes import why_nothing_fits
from train.plan_text import describe
from train.planning import Plan, make_plan, overrides
from train.words import GIB


class Pod(NamedTuple):
    """A scale file: of which config, and for which machine.

    Attributes:
        base: the config.
        topology: of the machine.
        num_slices: of it.
        headroom: of the usable memory, what may be planned on paper; less where the compiler said that it needs more.
    """

    base: str
    topology: str
    num_slices: int = 1
    headroom: float = HEADROOM


PODS = {
    "gpt2_124m_h100_1": Pod("gpt2_124m", "gpu:h100:1"),
    "gpt2_124m_v5e_8": Pod("gpt2_124m", "v5e:2x4"),
    "gpt2_1b5_h200_1": Pod("gpt2_1b5", "gpu:h200:1"),
    "gpt2_1b5_v5e_8": Pod("gpt2_1b5", "v5e:2x4"),
    "llama3_8b_h100_8": Pod("llama3_8b", "gpu:h100:8"),
    "llama3_8b_v5e_64": Pod("llama3_8b", "v5e:8x8", headroom=0.8),
    "llama3_8b_v5p_64": Pod("llama3_8b", "v5p:4x4x4"),
    "llama3_8b_v6e_256": Pod("llama3_8b", "v6e:16x16"),
    "llama3_70b_h100_512": Pod("llama3_70b", "gpu:h100:8x64"),
    "llama3_70b_v5p_512": Pod("llama3_70b", "v5p:8x8x8"),
    "llama3_70b_v6e_256": Pod("llama3_70b", "v6e:16x16"),
    "llama3_405b_v5p_2048": Pod("llama3_405b", "v5p:8x16x16"),
    "llama3_405b_2x_v5p_1024": Pod("llama3_405b", "v5p:8x8x16", 2),
    "mixtral_8x7b_v5p_64": Pod("mixtral_8x7b", "v5p:4x4x4"),
    "qwen3_235b_a22b_v5p_512": Pod("qwen3_235b_a22b", "v5p:8x8x8"),
    "bert_large_v5e_8": Pod("bert_large", "v5e:2x4"),
    "t5_11b_v5p_64": Pod("t5_11b", "v5p:4x4x4"),
}
TITLES = {"gpt2_124m": "GPT-2, 124 million parameters,", "gpt2_1b5": "GPT-2, 1.5 billion parameters,"}
TITLES |= {"llama3_8b": "Llama 3 8B", "llama3_70b": "Llama 3 70B", "llama3_405b": "Llama 3 405B", "t5_11b": "T5 11B"}
TITLES |= {"mixtral_8x7b": "Mixtral 8x7B", "qwen3_235b_a22b": "Qwen3 235B-A22B", "bert_large": "BERT-large"}


HEADERS = "--headers"
RESULTS = ROOT / "tests" / "bench" / "results" / "pods.json"


def config_of(name: str) -> Any:
    """The config of a scale file."""
    return importlib.import_module(f"configs.{name}").get_config()


def changes_of(name: str, pod: Pod) -> dict[str, Any]:
    """The fields in which a scale file differs from its base run; they say what was compiled."""
    base = flatten(importlib.import_module(f"configs.{pod.base}").get_config())
    found = {key: value for key, value in flatten(config_of(name)).items() if value != base[key] and key != "name"}
    return dict(sorted(found.items(), key=lambda item: not item[0].startswith("mesh.")))  # as `overrides` has them


def known_rows() -> dict[str, dict[str, Any]]:
    """The pods that were compiled, by name."""
    return {row["name"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}


def chips_in_words(machine: Machine) -> str:
    """Such as "64 v5p chips"."""
    chip = machine.chip.name.upper() if machine.chip.platform == "gpu" else machine.chip.name
    if machine.num_chips == 1:
        return f"one {chip}"
    if machine.chip.platform == "gpu":
        return f"{machine.num_chips} {chip}"
    slices = f"{machine.num_slices} slices of " if machine.num_slices > 1 else ""
    return f"{slices}{machine.num_chips // machine.num_slices} {chip} chips"


def header(plan: Plan, row: dict[str, Any] | None) -> str:
    """The plan in a paragraph, with what the compiler says of it if it was asked."""
    best, time = plan.best, plan.best.time
    usable = plan.machine.chip.usable_bytes
    return (
        f"Plan, an estimate from shapes and the hardware's peaks, not measured: {describe(best)}. "
        f"{best.memory.total / GIB:.1f} of {usable / GIB:.1f} GiB a chip; a step takes at "
        f"least {time.overlapped:.3g} s ({time.serial:.3g} s if the network is not hidden), MFU at most {time.mfu:.1%} "
        f"({time.mfu_serial:.1%}), {time.tokens_per_second:,.0f} tokens/s; {time.binds} binds. {compiled_in_words(row)}"
    )


def compiled_in_words(row: dict[str, Any] | None) -> str:
    """What the compiler says of a pod."""
    if row is None:
        return "Not compiled yet."
    said = f"Compiled: needs {row['needed'] / GIB:.1f} of {row['available'] / GIB:.1f} GiB, which "
    said += "fits" if row["fits"] else "DOES NOT FIT"
    if "seconds" not in row:
        return said + "."
    seconds, mfu = row["seconds"], row["mfu"]
    whose = "its cycles" if row["has_cycles"] else "operations on paper"
    return (
        f"{said}; by {whose} and the bytes of its collectives {seconds['overlapped']:.3g} s ({seconds['serial']:.3g} "
        f"s), MFU {mfu['overlapped']:.1%} ({mfu['serial']:.1%})."
    )


def assignments(changed: dict[str, Any]) -> list[str]:
    """The changed fields as lines of a config."""
    sections: dict[str, list[str]] = {}
    for key, value in changed.items():
        section, _, field = key.partition(".")
        text = f'"{value}"' if isinstance(value, str) else str(value)
        sections.setdefault(section, []).append(f"{field}={text}")
    lines = []
    for section, fields in sections.items():
        single = fields[0].replace("=", " = ", 1)
        lines.append(
            f"config.{section}.{single}" if len(fields) == 1 else f"config.{section}.update({', '.join(fields)})"
        )
    return lines


def source(name: str, pod: Pod, plan: Plan, changed: dict[str, Any], row: dict[str, Any] | None) -> str:
    """The text of a scale file."""
    flags = f" --num-slices {pod.num_slices}" if pod.num_slices > 1 else ""
    body = "\n".join(f"    {line}" for line in assignments(changed))
    return f'''"""{TITLES[pod.base]} on {chips_in_words(plan.machine)}.

    python -m train.plan --config configs/{name}.py --topology {pod.topology}{flags}

{textwrap.fill(header(plan, row), 118)}
"""

from ml_collections import ConfigDict

from configs import {pod.base}


def get_config() -> ConfigDict:
    """The config of the run."""
    config = {pod.base}.get_config()
    config.name = "{name}"
{body}
    return config
'''


def planned(name: str, pod: Pod, machine: Machine) -> tuple[Plan, dict[str, Any]]:
    """The plan of a pod, and the fields that say it.

    Raises:
        ValueError: nothing fits.
    """
    config = importlib.import_module(f"configs.{pod.base}").get_config()
    plan = make_plan(config, machine, headroom=pod.headroom)
    if not plan.best.fits:
        raise ValueError(f"{name}: {why_nothing_fits(config, plan)}")
    return plan, overrides(config, plan.best, machine)


def as_it_is(name: str, pod: Pod, machine: Machine) -> tuple[Plan, dict[str, Any]]:
    """What its file says already."""
    config = config_of(name)
    return make_plan(config, machine, mesh={axis: config.mesh[axis] for axis in AXES}), changes_of(name, pod)


def main(names: list[str]) -> None:
    """Plans and writes."""
    make = as_it_is if HEADERS in names else planned
    for name in [name for name in names if name != HEADERS] or PODS:
        pod, row = PODS[name], known_rows().get(name)
        machine = parse_machine(pod.topology, pod.num_slices)
        plan, changed = make(name, pod, machine)
        text = source(name, pod, plan, changed, row if row and row["changes"] == changed else None)
        (ROOT / "configs" / f"{name}.py").write_text(text)
        print(name, describe(plan.best), "" if plan.best.fits else "DOES NOT FIT on paper", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
