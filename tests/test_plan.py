"""The planner: what it enumerates, how it ranks, what it says, and what it answers to what cannot be."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import base, llama3_8b
from data.command_line import flatten
from parallel import AXES, Machine, parse_machine
from tests.helpers import command
from train.candidates import HEADROOM, Candidate, Search, attentions_of, factorizations, objectives_of
from train.layout import Layout
from train.memory import estimate_memory
from train.plan_changes import changes, larger_machines, next_machines, why_nothing_fits
from train.plan_text import budget_line, describe, parse_quantity, why_first
from train.planning import machine_at_hand, make_plan, overrides, parse_mesh, with_overrides, with_plan
from train.step_time import estimate_time
from train.workload import workload_of

ONE = dict.fromkeys(AXES, 1)


def medium(**changed: Any) -> ConfigDict:
    """A model of 0.2 billion parameters that fits any chip."""
    config = base.get_config()
    config.model.update(num_layers=8, d_model=1024, num_heads=8, num_kv_heads=4, d_mlp=4096, activation="swiglu")
    config.model.dtype = "bfloat16"
    config.data.update(vocab_size=32_000, seq_len=1024, batch_size=64)
    config.update_from_flattened_dict(changed)
    return config


def test_factorizations_are_all_ordered_products():
    assert list(factorizations(4, 2)) == [(1, 4), (2, 2), (4, 1)]
    assert len(list(factorizations(64, 6))) == math.comb(11, 5)
    assert all(math.prod(shape) == 24 for shape in factorizations(24, 6))


def test_a_plan_is_ranked_fits_and_is_the_same_each_time():
    config, machine = medium(), parse_machine("v5e:2x4")
    plan = make_plan(config, machine)
    keys = [one.key for one in plan.candidates]
    assert keys == sorted(keys)
    assert all(one.layout.num_devices == 8 for one in plan.candidates)
    assert plan.best.fits
    assert plan.best.memory.total <= machine.chip.usable_bytes * HEADROOM
    assert [one.layout for one in make_plan(config, machine).candidates] == [one.layout for one in plan.candidates]


def test_of_a_mesh_the_largest_microbatch_that_fits_is_taken():
    """512 rows of 1,024 tokens on a device have logits of 4 x 512 x 1024 x 32000 bytes, 62.5 GiB."""
    machine = parse_machine("v5e:2x2")
    best = make_plan(medium(**{"data.batch_size": 2048}), machine, mesh=None).best
    rows = best.layout.microbatch_rows
    assert best.fits
    assert rows < 2048 // 4
    workload = workload_of(medium(**{"data.batch_size": 2048}))
    larger = estimate_memory(workload, Layout(**{**vars(best.layout), "microbatch_rows": rows * 2}), "v5e")
    assert larger.total > machine.chip.usable_bytes * HEADROOM


def test_the_bounds_in_literal_numbers():
    """One v5e; no network, and compute is 6 operations a parameter and token and attention's, over 197 TFLOP/s."""
    config, machine = medium(), parse_machine("v5e:1x1")
    layout = Layout(**ONE, microbatch_rows=4, remat="none", attention="splash")
    bound = estimate_time(workload_of(config), layout, machine, {})
    layer = 1024 * 128 * (8 + 2 * 4) + 8 * 128 * 1024 + 3 * 1024 * 4096
    matmuls = 8 * layer + 32_000 * 1024
    attention = 8 * 2 * 8 * 128 * (1025 / 2)
    operations = 6 * 64 * 1024 * (matmuls + attention)
    assert bound.model_flops == operations
    assert bound.compute == pytest.approx(operations / 197e12)
    assert (bound.network, bound.waiting, bound.binds) == (0, 0, "compute")
    assert bound.alone == pytest.approx((2 * 12 + 4) * (8 * (layer + 2 * 1024) + 32_000 * 1024 + 1024) / 819e9)
    assert bound.overlapped == bound.serial == bound.compute + bound.alone
    assert bound.mfu == pytest.approx(bound.compute / bound.overlapped)
    assert bound.tokens_per_second == pytest.approx(64 * 1024 / bound.overlapped)


def test_remat_takes_time_and_no_part_of_mfu():
    workload, machine = workload_of(medium()), parse_machine("v5e:1x1")
    none, full = (
        estimate_time(workload, Layout(**ONE, microbatch_rows=4, remat=remat, attention="splash"), machine, {})
        for remat in ("none", "full")
    )
    assert full.model_flops == none.model_flops
    layer = 1024 * 128 * (8 + 2 * 4) + 8 * 128 * 1024 + 2 * 1024 * 4096  # all but the MLP's last matmul
    again = 2 * 64 * 1024 * 8 * (layer + 2 * 8 * 128 * (1025 / 2))
    assert full.compute - none.compute == pytest.approx(again / 197e12)


def test_heads_narrower_than_a_systolic_array_take_longer():
    """Of v6e's 256 rows heads of 128 use half, so attention's operations count twice."""
    layout = Layout(**ONE, microbatch_rows=4, remat="none", attention="splash")
    bound = estimate_time(workload_of(medium()), layout, parse_machine("v6e:1x1"), {})
    attention = 3 * 64 * 8 * 4 * 1024 * 8 * 128 * (1025 / 2)
    assert bound.compute == pytest.approx((bound.model_flops + attention) / 918e12)


@pytest.mark.parametrize(
    ("dtype", "remat", "num_bytes"),
    # State read and written, gradients read and written; a cast; and each pass reads the weights.
    [
        ("bfloat16", "none", 2 * 12 + 2 * 4 + (4 + 2) + 2 * 2),
        ("bfloat16", "full", 2 * 12 + 2 * 4 + (4 + 2) + 3 * 2),
        ("float32", "none", 2 * 12 + 2 * 4 + 2 * 4),
    ],
)
def test_what_a_weight_costs_of_hbms_bandwidth(dtype: str, remat: str, num_bytes: int):
    """With so few tokens activations are next to nothing."""
    layout, machine = Layout(**ONE, microbatch_rows=1, remat=remat, attention="splash"), parse_machine("v5e:1x1")
    few = {"data.batch_size": 1, "data.seq_len": 8, "model.dtype": dtype}
    narrow, wide = (
        estimate_time(workload_of(medium(**few, **{"model.d_mlp": width})), layout, machine, {}).hbm * 819e9
        for width in (4096, 8192)
    )
    assert (wide - narrow) / (8 * 3 * 1024 * 4096) == pytest.approx(num_bytes, rel=0.01)


def test_a_pipeline_waits():
    workload, machine = workload_of(medium()), parse_machine("v5p:2x2x1")
    layout = Layout(**{**ONE, "stage": 4}, microbatch_rows=8, remat="full", attention="splash")
    from parallel import links_of

    bound = estimate_time(workload, layout, machine, links_of(machine, layout.sizes))
    assert bound.waiting == 3 / 11  # of 8 microbatches


def test_a_named_attention_has_no_ring():
    machine, ring = parse_machine("v5e:2x4"), {**ONE, "fsdp": 4, "context": 2}
    for name, ways in (("auto", {"ring", "all_to_all"}), ("plain", {"all_to_all"}), ("splash", {"all_to_all"})):
        config = medium(**{"model.attention": name})
        found = Search(config, workload_of(config), machine).variants(ring)
        assert {variant.context_attention for variant in found} == ways


def test_thousands_of_choices_take_seconds():
    """All meshes of 512 chips, with five remat policies each, in CPU seconds of this process."""
    started = time.process_time()
    plan = make_plan(llama3_8b.get_config(), parse_machine("v5p:8x8x8"))
    assert plan.num_meshes > 100
    assert time.process_time() - started < 60


def test_one_given_mesh_is_checked_as_the_config_has_it():
    config, machine = medium(**{"model.remat": "dots", "train.microbatch_rows": 2}), parse_machine("v5e:2x4")
    plan = make_plan(config, machine, mesh=parse_mesh("fsdp=4,tensor=2", 8))
    assert len(plan.candidates) == 1
    layout = plan.best.layout
    assert (layout.fsdp, layout.tensor, layout.remat, layout.microbatch_rows) == (4, 2, "dots", 2)


def test_the_override_reproduces_the_plan():
    config, machine = medium(), parse_machine("v5e:2x4")
    best = make_plan(config, machine).best
    changed = overrides(config, best, machine)
    config.update_from_flattened_dict(changed)
    assert overrides(config, best, machine) == {}
    again = make_plan(config, machine, mesh=best.layout.sizes).best
    assert again.memory == best.memory


def candidate(layout: Layout, objective: str = "auto", **config: Any) -> Candidate:
    """What a layout takes on four v5p."""
    search = Search(medium(**config), workload_of(medium(**config)), parse_machine("v5p:2x2x1"))
    return search.score(layout, search.own()._replace(objective=objective))


def test_what_a_config_leaves_open_is_tried():
    """Splash runs on TPUs and cuDNN on GPUs; a kind that is named is kept, and so is an objective."""
    config, tpu, gpu = medium(), parse_machine("v5p:2x2x1"), parse_machine("gpu:h100:4")
    assert attentions_of(config, tpu) == ["splash", "plain", "blocked"]
    assert attentions_of(config, gpu) == ["cudnn", "plain", "blocked"]
    assert attentions_of(medium(**{"model.attention": "blocked,block=128"}), tpu) == ["blocked"]
    assert objectives_of(config) == ["auto", "auto,chunk=512"]
    assert objectives_of(medium(**{"train.objective": "auto,chunk=128"})) == ["auto,chunk=128", "auto"]
    assert objectives_of(medium(**{"train.objective": "tokens"})) == ["tokens"]
    assert objectives_of(medium(**{"data.seq_len": 512})) == ["auto"]  # one chunk would be all


def test_both_attentions_over_a_divided_length_are_tried():
    """With 8 heads the all-to-all divides the length over 8 chips at most; the ring has no such limit."""
    config = medium(**{"data.batch_size": 1, "data.seq_len": 32_768})
    search = Search(config, workload_of(config), parse_machine("v5e:4x4"))

    def across(**sizes: int) -> set[str]:
        return {variant.context_attention for variant in search.variants({**ONE, **sizes})}

    assert across(context=8, data=2) == set()  # a single row is not divisible
    assert across(context=16) == {"ring"}
    assert across(context=8, tensor=2) == {"ring"}
    assert across(context=4, tensor=2) == {"ring", "all_to_all"}
    config.model.attention = "splash"
    named = Search(config, workload_of(config), parse_machine("v5e:4x4"))
    assert {v.context_attention for v in named.variants({**ONE, "context": 4})} == {"all_to_all"}


def test_the_override_says_attention_and_loss():
    layout = Layout(**{**ONE, "context": 4}, microbatch_rows=4, remat="none", attention="splash")
    machine, config = parse_machine("v5p:2x2x1"), medium(**{"mesh.data": 1, "train.microbatch_rows": 4})
    ring = candidate(layout, "auto,chunk=512")
    assert overrides(config, ring, machine) == {"mesh.context": 4, "train.objective": "auto,chunk=512"}
    assert describe(ring) == "context=4, rows=4, remat=none, attention=ring, loss in chunks of 512"
    exchanged = Layout(**{**vars(layout), "context_attention": "all_to_all", "attention": "blocked"})
    expected = {"mesh.context": 4, "mesh.context_attention": "all_to_all", "model.attention": "blocked"}
    assert overrides(config, candidate(exchanged), machine) == expected
    assert "attention=blocked after all-to-all" in describe(candidate(exchanged))
    again = with_overrides(config, candidate(exchanged), machine)
    assert (again.mesh.context_attention, again.model.attention) == ("all_to_all", "blocked")


def test_a_plan_for_a_config_that_plans_at_its_start_replaces_that():
    config, machine = medium(**{"mesh.auto": True}), parse_machine("v5p:2x2x1")
    assert overrides(config, make_plan(config, machine).best, machine)["mesh.auto"] is False


class Device:
    """What JAX shows of a device."""

    def __init__(self, platform: str, kind: str, **shown: Any):
        self.platform, self.device_kind = platform, kind
        vars(self).update(shown)


def test_the_machine_at_hand_is_that_of_its_devices(monkeypatch: pytest.MonkeyPatch):
    h100 = "NVIDIA H100 80GB HBM3"
    # One process for each GPU says nothing of hosts.
    gpus = [Device("gpu", h100, process_index=i) for i in range(16)]
    assert machine_at_hand(1, gpus) == parse_machine("gpu:h100:8x2")
    joined = [Device("gpu", h100, process_index=i, slice_index=i // 4) for i in range(8)]
    assert (machine_at_hand(1, joined).shape, machine_at_hand(1, joined).num_slices) == ((4,), 2)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert machine_at_hand(1, gpus[:8]) == parse_machine("gpu:h100:8")
    assert machine_at_hand(1, gpus[:8]).chip.usable_bytes == pytest.approx(0.9 * 84_942_979_072)
    # A part of a larger slice.
    tpus = [Device("tpu", "TPU v5 lite", coords=(x, y, 0), slice_index=3) for x in (4, 5) for y in range(4, 8)]
    assert machine_at_hand(1, tpus) == parse_machine("v5e:2x4")
    with pytest.raises(ValueError, match="'TPU v99' is no known chip"):
        machine_at_hand(1, [Device("tpu", "TPU v99", coords=(0, 0, 0))])


BAD = {
    "--mesh=tensor=16": "config.model.num_heads makes 8 heads, which are not divisible by the 16 parts of",
    "--mesh=tensor=3": "--mesh=tensor=3 has 3 devices, but the machine has 16",
    "--mesh=heads=2": "--mesh=heads=2: 'heads=2' is not understood; write axes of stage, data, fsdp",
    "--topology=v5q:4x4": "unknown chip; did you mean v5",
    "--topology=v5e:3x5": "there is no such slice of v5e",
    "--budget=15T": "--budget=15T is not understood; write --budget=tokens=15T",
    "--config.data.batch_size=7 --config.data.seq_len=1023": "no mesh of 16 devices suits this config",
}


@pytest.mark.parametrize("argument", BAD)
def test_each_bad_case_has_one_clear_answer(tmp_path: Path, argument: str):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(medium().to_dict()))
    given = [f"--config={path}", "--topology=v5e:4x4"]
    given = [*(one for one in given if one.split("=")[0] != argument.split("=")[0]), *argument.split()]
    with pytest.raises(ValueError, match=r"^(?s:.*)$") as error:
        command("plan")(given)
    assert BAD[argument] in str(error.value)


def test_compiling_without_the_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *names: None)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(medium().to_dict()))
    with pytest.raises(ValueError, match=r"pip install 'palmette\[tpu\]'"):
        command("plan")([f"--config={path}", "--topology=v5e:2x4"])


def test_a_model_that_is_too_large_gets_the_largest_terms_and_what_would_help():
    config, machine = llama3_8b.get_config(), parse_machine("v5e:2x4")
    plan = make_plan(config, machine)
    assert not plan.best.fits
    first, *steps, last = why_nothing_fits(config, plan).splitlines()
    assert first.startswith("nothing fits v5e:2x4: the smallest, ")
    assert "optimizer moments" in first
    assert steps[-1].startswith("config.optimizer.name=adafactor: ")
    assert steps[-1].endswith("which fits.")
    assert last.startswith("Or all as it is with --topology v5e:4x4: ")
    assert last.endswith("which fits.")
    sizes = [needed for _, needed, _ in changes(config, machine)]
    assert sizes[-1] < plan.best.memory.total


def test_what_would_help_changes_the_batch_of_a_ramp_too():
    """24 rows do not suit 16 devices, and 16 rows do not come from 3 by doubling."""
    config = llama3_8b.get_config()
    config.data.update(batch_size=24, batch_ramp="doubling,start=3,steps=9", seq_len=64)
    found = [*changes(config, parse_machine("v5e:4x4"))]
    assert any(said == "config.data.batch_size=32" for said, *_ in found)
    assert config.data.batch_ramp == "doubling,start=3,steps=9"


def test_changes_are_ordered_by_what_they_cost():
    """Each on top of the one before, what leaves the result as it is first, and what is trained last."""
    config = medium(
        **{"data.batch_size": 6, "model.dtype": "float32", "model.attention": "plain", "mesh.rules": "zero1"}
    )
    config.model.update(num_layers=64, d_model=4096, d_mlp=16384, num_heads=32)
    said = [change.removeprefix("config.") for change, *_ in changes(config, parse_machine("v5e:2x2"))]
    assert said == [
        "model.attention=auto",
        "mesh.rules=zero3",
        "model.dtype=bfloat16",
        "data.batch_size=8",
        "optimizer.name=adafactor",
        "data.seq_len=512",
        "data.seq_len=256",
        "train.parameters=lora",
    ]


@pytest.mark.parametrize(
    ("topology", "slices", "larger"),
    [
        ("v5e:8x16", 1, ["v5e:16x16", "v5e:16x16 2", "v5e:16x16 4", "v5e:16x16 8"]),
        ("v5e:16x16", 2, ["v5e:16x16 4", "v5e:16x16 8", "v5e:16x16 16"]),
        ("v4:8x8x16", 1, ["v4:8x16x16", "v4:16x16x16", "v4:16x16x16 2", "v4:16x16x16 4", "v4:16x16x16 8"]),
        ("gpu:h100:2", 1, ["gpu:h100:8", *(f"gpu:h100:8x{n} {n}" for n in (2, 4, 8, 16, 32))]),
        ("gpu:h100:8x4", 1, [f"gpu:h100:8x{n} {n}" for n in (8, 16, 32, 64, 128)]),
        ("cpu:8", 1, []),
    ],
)
def test_the_next_machines_are_ones_that_are_made(topology: str, slices: int, larger: list[str]):
    found = next_machines(parse_machine(topology, slices))
    names = [f"{one.name} {one.num_slices}" if one.num_slices > 1 else one.name for one in found]
    assert names == larger
    for one in found:
        assert parse_machine(one.name, one.num_slices if one.chip.platform == "tpu" else 1) == one


def test_a_larger_machine_is_named_by_its_flags():
    """A host of GPUs is filled before there are more hosts."""
    (*_, (said, _, fits)) = larger_machines(llama3_8b.get_config(), parse_machine("gpu:a100-40gb:1"))
    assert fits
    assert said.startswith("--topology gpu:a100-40gb:8")


def test_the_first_is_explained_in_a_sentence():
    plan = make_plan(medium(), parse_machine("v5e:2x4"))
    said = why_first(plan)
    assert said.count(". ") == 0
    assert said.endswith(".")
    assert "is first because it is bound by" in said


@pytest.mark.parametrize(("text", "tokens"), [("tokens=15T", 15e12), ("tokens=300b", 3e11), ("tokens=2e9", 2e9)])
def test_quantities(text: str, tokens: float):
    assert parse_quantity(text) == tokens


def test_a_budget_in_days_and_chip_hours():
    machine = parse_machine("v5e:2x4")
    best = make_plan(medium(), machine).best
    days = 1e12 / best.time.tokens_per_second / 86400
    assert budget_line(best, machine, 1e12).startswith(
        f"1T tokens take at least an estimated {days:.3g} days, {days * 24 * 8:,.0f} chip-hours ("
    )


def test_the_command_writes_what_reproduces_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = tmp_path / "config.json", tmp_path / "out"
    path.write_text(json.dumps(medium().to_dict()))
    arguments = [
        f"--config={path}",
        "--topology=v5e:2x4",
        "--top=3",
        "--budget=tokens=1T",
        f"--out={out}",
        "--compile=0",
    ]
    assert command("plan")(arguments) == 0
    printed = capsys.readouterr().out
    assert "not measurements" in printed
    result = json.loads((out / "plan.json").read_text())
    assert "not measurements" in result["label"]
    assert len(result["candidates"]) == 3
    first = result["candidates"][0]
    assert first["fits"]
    assert sum(first["memory_terms"].values()) == pytest.approx(first["memory_bytes"], rel=1e-6)
    assert (out / "plan.svg").read_text().startswith("<?xml")
    override = (out / "override.txt").read_text().split()
    assert override == [f"--config.{key}={value}" for key, value in first["override"].items()]
    assert math.prod(first["mesh"].values()) == 8


def test_a_run_may_be_planned_at_its_start(config: ConfigDict):
    """On eight simulated devices; what is chosen stands in the config that the run saves."""
    config.mesh.auto = True
    config.lock()
    lines: list[str] = []
    planned = with_plan(config, lines.append)
    assert math.prod(planned.mesh[axis] for axis in AXES) == 8
    changed = {key for key, value in flatten(planned).items() if value != flatten(config)[key]}
    assert changed <= {*(f"mesh.{axis}" for axis in (*AXES, "auto", "context_attention"))} | {
        "train.microbatch_rows",
        "train.objective",
        "model.remat",
        "model.attention",
    }
    assert not planned.mesh.auto
    assert len(lines) == 1
    assert "estimated, not measured" in lines[0]
    config.mesh.auto = False
    assert with_plan(config, lines.append) is config


def test_a_run_that_cannot_fit_is_refused_at_its_start(monkeypatch: pytest.MonkeyPatch):
    import dataclasses

    machine = parse_machine("cpu:8")
    tiny = dataclasses.replace(machine, chip=dataclasses.replace(machine.chip, usable_bytes=1000))
    monkeypatch.setattr(sys.modules["train.planning"], "machine_at_hand", lambda slices: tiny)
    with pytest.raises(ValueError, match=r"config\.mesh\.auto=True: nothing fits cpu:8"):
        with_plan(medium(**{"mesh.auto": True}), print)


def test_chip_hours_count_chips_not_devices():
    assert isinstance(parse_machine("tpu7x:2x2x1"), Machine)
    assert parse_machine("tpu7x:2x2x1").num_devices == 2 * parse_machine("tpu7x:2x2x1").num_chips
