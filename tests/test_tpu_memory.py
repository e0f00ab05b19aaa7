"""The memory on paper against the compiler's, for TPUs that are not here; `make bench` compares more of them."""

from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import base
from parallel import parse_machine
from train.candidates import attentions_of
from train.compile import compile_step, mesh_of
from train.layout import layout_of
from train.memory import Memory, estimate_memory
from train.workload import workload_of

pytestmark = [pytest.mark.tpu, pytest.mark.xdist_group("tpu")]

# Topology, name of a config, "" for `medium`; mesh, changes of the config.
Case = tuple[str, str, dict[str, int], dict[str, Any]]
LESS: dict[str, Any] = {"model.remat": "full", "model.num_layers": 4}  # compiles in half the time
NARROW = {"model.d_model": 512, "model.num_heads": 4, "model.num_kv_heads": 2, "model.d_mlp": 2048}
CASES: tuple[Case, ...] = (
    ("v5p:2x2x1", "", {"fsdp": 4}, LESS | NARROW | {"data.vocab_size": 8192, "data.seq_len": 512}),
    ("v6e:2x2", "", {"fsdp": 4}, LESS | {"data.seq_len": 256, "model.tie_embeddings": False}),
)


def medium(changes: dict[str, Any]) -> ConfigDict:
    """0.16 billion parameters: large enough that rounding to tiles and on-chip memory matter little."""
    config = base.get_config()
    config.model.update(num_layers=8, d_model=1024, num_heads=8, num_kv_heads=4, head_dim=128, d_mlp=4096)
    config.model.update(activation="swiglu", dtype="bfloat16")
    config.data.update(vocab_size=32_000, seq_len=1024, batch_size=16)
    config.update_from_flattened_dict(changes)
    return config


def estimate(topology: str, config: ConfigDict) -> Memory:
    """On paper."""
    machine = parse_machine(topology)
    layout = layout_of(config, mesh_of(config, machine), attention=attentions_of(config, machine)[0])
    return estimate_memory(workload_of(config), layout, machine.chip.name)


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]} {case[2]} {case[3]['model.remat']}" for case in CASES])
def test_the_estimate_is_within_a_tenth_of_the_compiler(case: Case):
    topology, _, mesh, changes = case
    config = medium({**changes, "mesh.data": 1, **{f"mesh.{axis}": size for axis, size in mesh.items()}})
    on_paper, said = estimate(topology, config), compile_step(config, parse_machine(topology)).memory
    assert on_paper.total == pytest.approx(said.needed, rel=0.1)
    state = sum(on_paper.terms[name] for name in ("parameters", "optimizer moments"))
    assert state == pytest.approx(said.arguments, rel=0.001)
