"""The memory on paper against the compiler's, for TPUs that are not here; `make bench` compares more of them."""

import functools
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import base
from parallel import MeshConfig, make_mesh, parse_machine, topology_devices
from train.ahead import lower_step
from train.compose import attention_of
from train.layout import layout_of
from train.memory import Memory, estimate_memory
from train.workload import workload_of

pytestmark = [pytest.mark.tpu, pytest.mark.xdist_group("tpu")]

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
Case = tuple[str, dict[str, int], dict[str, Any]]
# Generation, mesh, changes of `medium`.
CASES: tuple[Case, ...] = (
    ("v5p", {"fsdp": 4}, {"model.remat": "full", "model.attention": "plain"}),
    ("v6e", {"fsdp": 4}, {"model.remat": "full", "model.tie_embeddings": False}),
)


def medium(changes: dict[str, Any]) -> ConfigDict:
    """0.16 billion parameters: large enough that rounding to tiles and on-chip memory matter little."""
    config = base.get_config()
    config.model.update(num_layers=8, d_model=1024, num_heads=8, num_kv_heads=4, head_dim=128, d_mlp=4096)
    config.model.update(activation="swiglu", dtype="bfloat16")
    config.data.update(vocab_size=32_000, seq_len=1024, batch_size=16)
    config.update_from_flattened_dict(changes)
    return config


@functools.cache
def devices(generation: str) -> list[Any]:
    return topology_devices(parse_machine(TOPOLOGIES[generation]))


def estimate(case: Case) -> Memory:
    generation, axes, changes = case
    config = medium(changes)
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}), devices=devices(generation))
    attention = attention_of(config, mesh).kind
    return estimate_memory(workload_of(config), layout_of(config, mesh, attention=attention), generation)


def compiled(case: Case) -> Any:
    """What the compiler says."""
    generation, axes, changes = case
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}), devices=devices(generation))
    return lower_step(medium(changes), mesh).compile().memory_analysis()


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]} {case[1]} {case[2]['model.remat']}" for case in CASES])
def test_the_estimate_is_within_a_tenth_of_the_compiler(case: Case):
    on_paper, stats = estimate(case), compiled(case)
    assert on_paper.total == pytest.approx(stats.peak_memory_in_bytes, rel=0.1)
    state = sum(on_paper.terms[name] for name in ("parameters", "optimizer moments"))
    assert state == pytest.approx(stats.argument_size_in_bytes, rel=0.001)
