"""The step compiled for TPUs that are not here: each mesh axis against its textbook count; mixes on three generations.

Sizes are such that a part of each dim fills whole tiles (a multiple of 128): the compiler pads others, and shifts what
it padded with permutes.
"""

import functools
import importlib.util
import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from configs import base
from model.splash import splash_attention
from parallel import MeshConfig, make_mesh
from parallel.collectives import Total, collectives, totals
from train.ahead import Compiled, compile_and_listen, lower_step
from train.budget import budget, totals_of
from train.compose import attention_of

pytestmark = [pytest.mark.tpu, pytest.mark.xdist_group("tpu")]

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
# Two rows a microbatch: of a single one, the compiler for TPUs sends the last output to all three times.
STAGES = {"model.num_layers": 4, "train.microbatch_rows": 2}
CASES = {
    "data": ({"data": 4}, {}),
    "fsdp": ({"fsdp": 4}, {}),
    "tensor": ({"tensor": 4}, {}),
    "context, ring": ({"context": 4}, {}),
    "context, all-to-all": ({"context": 4}, {"mesh.context_attention": "all_to_all"}),
    "expert": ({"expert": 4}, {"model.num_experts": 4}),
    "expert, capacity": ({"expert": 4}, {"model.num_experts": 4, "model.expert_capacity": 1.5}),
    "stage, 1f1b": ({"stage": 4}, STAGES),
    "stage, zero bubble": ({"stage": 4}, STAGES | {"mesh.schedule": "zero_bubble"}),
}
# More of the same, not for each generation.
VARIANTS = {
    "data, 2 microbatches": ({"data": 4}, {"train.microbatch_rows": 1}),
    "fsdp, 2 microbatches, remat": ({"fsdp": 4}, {"train.microbatch_rows": 1, "model.remat": "projections"}),
    "fsdp, untied": ({"fsdp": 4}, {"model.tie_embeddings": False}),
}
# Two axes at once; here kinds other than all-reduce are compared, of which XLA makes one over both axes.
MIXES = {
    "context x tensor": ({"context": 2, "tensor": 2}, {}),
    "context x tensor, all-to-all": ({"context": 2, "tensor": 2}, {"mesh.context_attention": "all_to_all"}),
    "fsdp x tensor": ({"fsdp": 2, "tensor": 2}, {}),
    "stage x expert": (
        {"stage": 2, "expert": 2},
        STAGES | {"model.num_experts": 4, "model.expert_capacity": 1.5},
    ),
    "stage x expert, dropless": ({"stage": 2, "expert": 2}, STAGES | {"model.num_experts": 4}),
}
# Every axis on one generation, and each of them in a mix on the others; `make bench` compiles all for all.
MIXED = (("v5e", "context x tensor"), ("v5p", "context x tensor, all-to-all"), ("v6e", "stage x expert"))
MIXED += (
    ("v5e", "stage x expert, dropless"),
    ("v5p", "stage x expert"),
    ("v6e", "context x tensor"),
    ("v5p", "fsdp x tensor"),
    ("v6e", "fsdp x tensor"),
)


@functools.cache
def devices(generation: str) -> Any:
    if importlib.util.find_spec("libtpu") is None:
        pytest.fail("libtpu is not installed: pip install 'palmette[tpu]', or make test EXTRAS=dev,tpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no metadata server to ask
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # nothing is run, so processes need not take turns
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation]).devices


def small() -> ConfigDict:
    config = base.get_config()
    config.model.update(num_layers=3, d_model=256, num_heads=8, num_kv_heads=4, head_dim=32, d_mlp=768)
    config.model.update(activation="swiglu", dtype="bfloat16")
    config.data.update(vocab_size=1024, seq_len=64, batch_size=8)
    return config


@functools.cache
def case(generation: str, name: str) -> tuple[Compiled, ConfigDict, Any]:
    axes, changes = (CASES | VARIANTS | MIXES)[name]
    config = small()
    config.update_from_flattened_dict(changes)
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}), devices=devices(generation))
    return compile_and_listen(lower_step(config, mesh)), config, mesh


@pytest.mark.parametrize("name", CASES | VARIANTS)
def test_the_step_has_exactly_the_collectives_of_the_textbook(name: str):
    compiled, config, mesh = case("v5e", name)
    assert measured(name) == totals_of(budget(config, mesh, "tpu"))
    assert not compiled.rematerializes, compiled.messages


@pytest.mark.parametrize(("generation", "name"), MIXED)
def test_two_axes_do_what_each_does_alone(generation: str, name: str):
    """No gathering of heads over tensor for the ring, for one: it was there once, on TPUs only."""
    compiled, config, mesh = case(generation, name)
    assert not compiled.rematerializes, compiled.messages
    if mesh.shape["stage"] == 1:  # the budget counts no other axis in the ticks of a schedule
        found, expected = totals(collectives(compiled.text, mesh.shape)), totals_of(budget(config, mesh, "tpu"))
        assert {k: v for k, v in found.items() if k[0] != "all-reduce"} == {
            k: v for k, v in expected.items() if k[0] != "all-reduce"
        }


KERNELS = {"data.seq_len": 256, "model.head_dim": 64, "model.num_layers": 2}
# Each generation, and each way in which a mesh runs the kernel: divided by the compiler, after the all-to-all, in the
# microbatches of replicas, and in a pipeline's stages.
SPLASH: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "fsdp x tensor": ("v5e", {"fsdp": 2, "tensor": 2}, {}),
    "context x tensor": ("v5p", {"context": 2, "tensor": 2}, {"mesh.context_attention": "all_to_all"}),
    "microbatches, window, soft cap": (
        "v5p",
        {"data": 4},
        {"train.microbatch_rows": 1, "model.window": 64, "model.layer_pattern": "LG", "model.attention_soft_cap": 20.0},
    ),
    "stage x data": ("v6e", {"stage": 2, "data": 2}, {"train.microbatch_rows": 2}),
}


@pytest.mark.parametrize("name", SPLASH)
def test_fused_attention_is_in_the_compiled_step(name: str):
    """The forward kernel and the two of the backward pass, once for each kind of layer."""
    generation, axes, changes = SPLASH[name]
    config = small()
    config.update_from_flattened_dict(KERNELS | changes)
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}), devices=devices(generation))
    assert attention_of(config, mesh).kind == "splash"
    compiled = compile_and_listen(lower_step(config, mesh))
    assert not compiled.rematerializes, compiled.messages
    for kernel in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
        assert kernel in compiled.text


def test_what_is_offloaded_waits_on_the_host():
    config = small()
    config.update_from_flattened_dict(KERNELS | {"model.remat": "names,keep=attention_out,offload=layer_input+mlp_in"})
    config.model.num_layers = 4
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), devices=devices("v6e"))
    compiled = compile_and_listen(lower_step(config, mesh))
    assert not compiled.rematerializes, compiled.messages
    memory: Any = compiled.program.memory_analysis()
    # 2 rows of 256 tokens, in bfloat16: of 4 layers the input and a hidden dim.
    assert memory.host_temp_size_in_bytes >= 4 * 2 * 256 * 2 * (256 + 768)


@pytest.mark.parametrize("generation", TOPOLOGIES)
@pytest.mark.parametrize(
    ("block", "head_dim", "size_of_values", "fused_backward"),
    [(512, 64, 64, False), (512, 256, 256, False), (512, 192, 128, True), (1024, 128, 128, False)],
)
def test_splash_compiles_with_other_blocks_and_heads(
    generation: str, block: int, head_dim: int, size_of_values: int, fused_backward: bool
):
    everywhere = SingleDeviceSharding(devices(generation)[0])
    names = ("q_positions_BT", "kv_positions_BS", "q_segment_ids_BT", "kv_segment_ids_BS")

    def loss(q: Any, k: Any, v: Any, ids: Any) -> Any:
        how = {"in_order": True, "block": block, "fused_backward": fused_backward}
        return jnp.sum(splash_attention(q, k, v, **how, **dict.fromkeys(names, ids)).astype(jnp.float32))

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    arrays = array(1, 2048, 4, head_dim), array(1, 2048, 2, head_dim), array(1, 2048, 2, size_of_values)
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays, array(1, 2048, dtype=jnp.int32))
    text = compile_and_listen(lowered).text
    assert ("splash_mha_dq" in text) != fused_backward
    assert "splash_mha_dkv" in text


@pytest.mark.parametrize(("name", "tied"), [("fsdp", True), ("fsdp, untied", False)])
def test_a_chunked_loss_communicates_no_more_than_all_logits_at_once(name: str, tied: bool):
    """Gradients of the table are summed over the devices once, not in each chunk, and are not gathered."""
    config = small()
    config.train.objective = "auto,chunk=16"
    config.model.tie_embeddings = tied
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), devices=devices("v5e"))
    compiled = compile_and_listen(lower_step(config, mesh))
    assert not compiled.rematerializes, compiled.messages
    found, whole = totals(collectives(compiled.text, mesh.shape)), measured(name)
    assert set(found) == set(whole)
    for kind in ("all-gather", "reduce-scatter", "all-reduce"):
        assert found[kind, ("fsdp",)].tensors <= whole[kind, ("fsdp",)].tensors
        assert found[kind, ("fsdp",)].bytes <= whole[kind, ("fsdp",)].bytes


EXPERTS = {"num_experts": 4, "d_expert": 256, "d_shared_expert": 256, "num_dense_layers": 1, "balance_bias_rate": 0.1}
# What families add to the core, on a generation each.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "v5e",
        {"block": "both", "norm": "zero_centered_rmsnorm", "activation": "geglu", "window": 16, "layer_pattern": "LG"}
        | {"qk_norm": "head", "position": "rope,local_theta=10000", "rope_scaling": "linear,factor=8"},
    ),
    "deepseek": (
        "v5p",
        {"latent_attention": "latent,kv=128,rope=32,value=32,query=256", "num_kv_heads": 8, **EXPERTS}
        | {"router": "sigmoid,groups=2,top_groups=1"},
    ),
    "bert": (
        "v6e",
        {"architecture": "encoder", "block": "post", "norm": "layernorm", "bias": "all", "position": "learned"}
        | {"token_types": 2, "embedding_norm": "norm", "head": "transform", "activation": "gelu_exact"},
    ),
    "lstm": ("v6e", {"block": "lstm", "position": "none"}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_compile_without_rematerialization(name: str):
    generation, changes = FAMILIES[name]
    config = small()
    config.model.update(changes)
    config.data.batch_size = 32  # of 8 rows, libtpu 0.0.42.1 crashes on post-norm layers for v6e
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), devices=devices(generation))
    compiled = compile_and_listen(lower_step(config, mesh))
    assert not compiled.rematerializes, compiled.messages


# Those that work on whole matrices; of the others, every test here compiles one.
OPTIMIZED = [("adafactor", "v5e"), ("lamb", "v5e"), ("muon", "v5e"), ("muon", "v5p"), ("muon", "v6e"), ("soap", "v6e")]


@pytest.mark.parametrize(("name", "generation"), OPTIMIZED)
def test_optimizers_compile_without_rematerialization(name: str, generation: str):
    """Muon and SOAP move matrices to where they are whole, and back."""
    config = small()
    config.model.update(num_layers=2, d_mlp=512)
    config.optimizer.name = name
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), devices=devices(generation))
    compiled = compile_and_listen(lower_step(config, mesh))
    assert not compiled.rematerializes, compiled.messages


# In bfloat16. A layer's matrices: w_q and w_out 256 x 8 x 32, w_k and w_v 256 x 4 x 32, three of the MLP 256 x 768.
MATRICES = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768)
TABLE = 2 * 1024 * 256
NORM = 4 * 256
RESIDUAL = 2 * 8 * 64 * 256
TOKENS = 4 * 8 * 64


def measured(name: str) -> dict[tuple[str, tuple[str, ...]], Total]:
    compiled, _, mesh = case("v5e", name)
    return totals(collectives(compiled.text, mesh.shape))


def test_data_in_literal_numbers():
    """Each gradient once, in the compute dtype; those of norms once, stacked."""
    expected = Total(3 * 7 + 2 + 3, 3 * MATRICES + 2 * TABLE + 7 * NORM)
    assert measured("data") == {("all-reduce", ("data",)): expected}


def test_fsdp_in_literal_numbers():
    """A layer's parameters are gathered twice and their gradients scattered once; the head's in float32."""
    assert measured("fsdp") == {
        ("all-gather", ("fsdp",)): Total(2 * 3 * 7 + 1, 2 * 3 * MATRICES + TABLE),
        ("reduce-scatter", ("fsdp",)): Total(3 * 7 + 2, 3 * MATRICES + 3 * TABLE),
        ("all-reduce", ("fsdp",)): Total(3, 7 * NORM),
    }


def test_tensor_in_literal_numbers():
    """2 + 2 a layer each way, and 2 inputs gathered again."""
    assert measured("tensor") == {
        ("all-gather", ("tensor",)): Total(3 * (2 + 4) + 2, 20 * RESIDUAL),
        ("reduce-scatter", ("tensor",)): Total(3 * (2 + 2) + 2, 15 * RESIDUAL),
        ("all-reduce", ("tensor",)): Total(3 + 3, 3 * TOKENS + 7 * NORM),
    }


def test_context_in_literal_numbers():
    """3 steps of k and v forward and backward, in the compute dtype, and 3 of their gradients in float32."""
    keys_and_values = 2 * 8 * 64 * 2 * 4 * 32 // 4
    found = measured("context, ring")
    assert found["collective-permute", ("context",)] == Total(3 * 9, 3 * (3 + 3 + 2 * 3) * keys_and_values)
    assert found["all-reduce", ("context",)] == measured("data")["all-reduce", ("data",)]


def test_these_generations_have_no_reduce_scatter_of_their_own():
    """It is an all-reduce of which a device keeps a slice, so the link carries what an all-reduce does."""
    for generation, name in (("v5e", "fsdp"), ("v5p", "fsdp x tensor"), ("v6e", "fsdp x tensor")):
        compiled, _, mesh = case(generation, name)
        kinds = {one.kind for one in collectives(compiled.text, mesh.shape, sliced_all_reduce=False)}
        assert kinds == {"all-gather", "all-reduce"}
