"""What a plan makes of the compiler's word, on literal readings; and one compiled plan, for simulated CPUs."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from parallel import Machine, parse_machine
from parallel.collectives import SLICES, Collective
from parallel.cycles import Work
from parallel.hlo import ArrayShape
from tests.helpers import command
from tests.test_compiled import small
from tests.test_plan import medium
from train.compile import compile_step
from train.compiled import Reading, seconds_by_axis
from train.device_memory import CompiledMemory
from train.plan_compiled import compile_best, with_reading
from train.plan_text import table, why_first
from train.planning import Plan, make_plan

V5E, GIB = parse_machine("v5e:2x4"), 2**30


def reading(machine: Machine, mesh: dict[str, int], *, needed: float, seconds: float = 1.0) -> Reading:
    """Of a step that takes so many seconds of cycles, and so many GiB of 16."""
    cycles = int(seconds * (machine.chip.clock_hz or 0))
    memory = CompiledMemory(16 * GIB, int(needed * GIB), GIB)
    return Reading(machine, mesh, memory, 1000, 1e15, work=Work({"fusion": cycles}))


class Compiler:
    """Says of the first, second, ... what it is told to, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *said: tuple[float, float]):
        self.said, self.asked = said, list[Any]()
        monkeypatch.setattr(importlib.import_module("train.plan_compiled"), "compile_step", self.compile)

    def compile(self, config: Any, machine: Machine) -> Reading:
        needed, seconds = self.said[len(self.asked)]
        self.asked.append(config)
        mesh = {axis: config.mesh[axis] for axis in ("stage", "data", "fsdp", "expert", "context", "tensor")}
        return reading(machine, mesh, needed=needed, seconds=seconds)


def compiled(monkeypatch: pytest.MonkeyPatch, count: int, *said: tuple[float, float]) -> tuple[Plan, Plan, Compiler]:
    """A plan on paper, what the compiler makes of it, and the compiler."""
    config = medium()
    plan, compiler = make_plan(config, V5E), Compiler(monkeypatch, *said)
    return plan, compile_best(config, plan, count, log=lambda line: None), compiler


def test_compiled_candidates_come_before_those_on_paper(monkeypatch: pytest.MonkeyPatch):
    """Although the compiler's seconds are many more than those on paper."""
    paper, plan, compiler = compiled(monkeypatch, 2, (10, 300.0), (10, 200.0))
    assert len(compiler.asked) == 2
    assert [one.layout for one in plan.candidates[:2]] == [paper.candidates[1].layout, paper.candidates[0].layout]
    assert [one.time.compute for one in plan.candidates[:2]] == [pytest.approx(200), pytest.approx(300)]
    assert [one.layout for one in plan.candidates[2:]] == [one.layout for one in paper.candidates[2:]]
    lines = table(plan, 3).splitlines()
    assert [line.split()[-1] for line in lines] == ["from", "compiler", "compiler", "estimate"]
    assert "(compiled: compute 200 s" in why_first(plan)


def test_if_none_fits_more_are_compiled(monkeypatch: pytest.MonkeyPatch):
    paper, plan, compiler = compiled(monkeypatch, 1, (17, 1.0), (18, 1.0), (12, 5.0))
    assert len(compiler.asked) == 3
    assert plan.best.layout == paper.candidates[2].layout
    assert plan.best.fits
    # What the compiler does not fit is below all that fits on paper.
    assert not any(one.fits for one in plan.candidates[-2:])
    assert {one.layout for one in plan.candidates[-2:]} == {one.layout for one in paper.candidates[:2]}


def test_if_nothing_compiled_fits_an_estimate_is_first_and_says_so(monkeypatch: pytest.MonkeyPatch):
    paper, plan, compiler = compiled(monkeypatch, 1, (17, 1.0), (18, 1.0), (19, 5.0))
    assert len(compiler.asked) == 3
    assert plan.best.layout == paper.candidates[3].layout
    assert table(plan, 1).split()[-1] == "estimate"
    assert "(estimated: " in why_first(plan)


def test_what_is_hopeless_on_paper_is_not_compiled(monkeypatch: pytest.MonkeyPatch):
    config = medium(**{"model.num_layers": 64, "model.d_model": 4096, "model.d_mlp": 16384, "model.num_heads": 32})
    compiler = Compiler(monkeypatch)
    plan = make_plan(config, V5E)
    assert not plan.best.fits
    assert compile_best(config, plan, 3).candidates == plan.candidates
    assert compiler.asked == []


def test_what_is_compiled_is_the_candidate(monkeypatch: pytest.MonkeyPatch):
    """And not what `config.mesh.auto` would plan again."""
    config = medium(**{"mesh.auto": True})
    plan, compiler = make_plan(config, V5E), Compiler(monkeypatch, (1, 1.0))
    compile_best(config, plan, 1, log=lambda line: None)
    layout, asked = plan.best.layout, compiler.asked[0]
    assert {axis: asked.mesh[axis] for axis in layout.sizes} == layout.sizes
    assert (asked.train.microbatch_rows, asked.model.remat) == (layout.microbatch_rows, layout.remat)
    assert not asked.mesh.auto


def gigabytes(kind: str, *axes: str) -> Collective:
    return Collective(kind, (ArrayShape("bf16", (500, 1000, 1000)),), ((0, 1),), axes, (3,), "")


def test_seconds_of_collectives_on_the_links_of_their_axes():
    """v5p:4x4x4 with fsdp over two of its dims and data over the third: rings of 90 GB/s in each of two directions."""
    from parallel import links_of

    machine, mesh = (
        parse_machine("v5p:4x4x4"),
        {"stage": 1, "data": 4, "fsdp": 16, "expert": 1}
        | {
            "context": 1,
            "tensor": 1,
        },
    )
    found = (gigabytes("all-gather", "fsdp"), gigabytes("all-reduce", "data"), gigabytes("all-reduce", "data", "fsdp"))
    step = dataclasses.replace(reading(machine, mesh, needed=1), collectives=found)
    seconds = seconds_by_axis(step, links_of(machine, mesh))
    assert seconds == {
        "fsdp": pytest.approx(3 * 15 / 16 / 360),
        "data": pytest.approx(3 * 2 * 3 / 4 / 180),
        "data+fsdp": pytest.approx(3 * 2 * 63 / 64 / 540),
    }
    two = parse_machine("v5p:4x4x4", 2)
    mesh = mesh | {"data": 8}
    crossing = dataclasses.replace(gigabytes("all-reduce"), axes=SLICES)
    step = dataclasses.replace(reading(two, mesh, needed=1), collectives=(*found[1:2], crossing))
    seconds = seconds_by_axis(step, links_of(two, mesh))
    assert seconds["data"] == pytest.approx(3 * 2 * 3 / 4 / 180)  # what crosses the slices is told apart
    assert seconds["+".join(SLICES)] == pytest.approx(3 * 2 * 1 / 2 / 6.25)


def test_a_compiler_without_cycles_changes_the_network_only():
    """Remat and the wait of a pipeline stay as they are on paper: else each would look as fast as without."""
    machine = parse_machine("gpu:h100:2")
    config = medium(**{"model.remat": "full"})
    time = make_plan(config, machine, mesh={"fsdp": 2}).best.time
    mesh = {"stage": 1, "data": 1, "fsdp": 2, "expert": 1, "context": 1, "tensor": 1}
    step = dataclasses.replace(reading(machine, mesh, needed=1), collectives=(gigabytes("all-gather", "fsdp"),))
    told = with_reading(time, step, "data")
    assert (told.compute, told.memory, told.waiting) == (time.compute, time.memory, time.waiting)
    assert told.network == pytest.approx(3 / 2 / 450)
    assert told.by_axis == {"fsdp": told.network}


def test_a_gpus_computation_is_counted_on_paper():
    """Where there are no cycles a bound by the model's operations alone would come to 100%."""
    machine = parse_machine("gpu:h100:2")
    step = dataclasses.replace(reading(machine, {"fsdp": 2}, needed=1), paper_s=2.0, flops=1e15)
    assert not step.has_cycles
    assert step.compute_s == 2.0
    assert step.mfu(step.overlapped_s) == pytest.approx(1e15 / 2 / 2.0 / 989e12)


def test_a_config_that_plans_at_its_start_is_compiled_as_planned():
    """For the machine that is asked for, not for the one at hand."""
    config = small()
    config.mesh.auto = True
    lines: list[str] = []
    found = compile_step(config, parse_machine("cpu:2"), log=lines.append)
    assert found.machine.num_devices == 2
    assert lines[0].startswith("Planned for cpu:2, estimated, not measured: ")
    planned = dict(part.split("=") for part in lines[0].split(": ")[1].split(", ")[0].split())
    assert {axis: str(size) for axis, size in found.mesh.items() if size > 1} == planned
    assert found.compute_s >= found.paper_s > 0


def test_the_best_are_compiled_and_written_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "config.json").write_text(json.dumps(small().to_dict()))
    monkeypatch.chdir(tmp_path)
    assert command("plan")(["--config=config.json", "--topology=cpu:2", "--compile=1", "--num-slices=1"]) == 0
    printed = capsys.readouterr().out
    assert "compiled " in printed
    assert "Written to plans/base_cpu_2" in printed
    first, second, *_ = json.loads((tmp_path / "plans" / "base_cpu_2" / "plan.json").read_text())["candidates"]
    assert (first["figures_from"], second["figures_from"]) == ("compiler", "estimate")
    assert first["compiler"]["fits"]
    assert (tmp_path / "plans" / "base_cpu_2" / "override.txt").exists()
