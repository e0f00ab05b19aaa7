"""Memory on paper: the state against real shardings, what is kept against literal counts, the sum against the compiler.

Letters of the literal counts: B batch, T length, L layers, D model, F mlp, N heads, K kv heads, H head dim, V vocab.
"""

import dataclasses
import math
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from configs import base
from parallel import abstract_mesh
from train.activations import bytes_of, kept_activations
from train.compose import make_model
from train.layout import Layout, layout_of
from train.memory import estimate_memory
from train.optimizer import OPTIMIZERS
from train.state import abstract_state, param_shardings
from train.workload import workload_of

MIB = 2**20
B, T, L, D, F, N, K, H, V = 8, 64, 4, 32, 64, 4, 2, 8, 512
MESHES: dict[str, dict[str, int]] = {
    "one": {},
    "data": {"data": 4},
    "fsdp": {"fsdp": 4},
    "tensor": {"tensor": 2},
    "fsdp x tensor": {"fsdp": 2, "tensor": 2},
    "stage x fsdp": {"stage": 2, "fsdp": 2},
    "expert x fsdp": {"expert": 2, "fsdp": 2},
}


def small(**changes: Any) -> ConfigDict:
    config = base.get_config()
    config.model.update(num_layers=L, d_model=D, num_heads=N, num_kv_heads=K, head_dim=H, d_mlp=F, activation="swiglu")
    config.model.dtype = "bfloat16"
    config.data.update(vocab_size=V, seq_len=T, batch_size=B)
    config.update_from_flattened_dict(changes)
    return config


def held(tree: Any) -> int:
    """Bytes of a tree on one device, by JAX's own shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("rules", "optimizer"), [("zero1", "adamw"), *(("zero3", name) for name in OPTIMIZERS)])
def test_the_state_is_that_of_the_shardings(rules: str, optimizer: str):
    """Also of moments in parts, a factored one's and SOAP's squares; an average is divided as moments are."""
    config = small(**{"mesh.rules": rules, "optimizer.name": optimizer, "model.num_experts": 4})
    config.optimizer.ema = 0.9 if rules == "zero1" else 0.0
    workload = workload_of(config)
    several = ("fsdp x tensor", "stage x fsdp", "expert x fsdp")
    for name in MESHES if optimizer == "adamw" else several:
        mesh = abstract_mesh(MESHES[name])
        state = abstract_state(config, mesh)
        gradients = param_shardings(config, mesh, of="gradient")
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state.params,
            gradients,
        )
        sizes = mesh.shape
        assert workload.shard_bytes("params", sizes) == held(state.params), name
        assert workload.shard_bytes("moments", sizes, "moment") == held(state.opt_state), name
        assert workload.shard_bytes("params", sizes, "gradient") == held(placed), name


def test_adapters_have_moments_and_their_base_has_none():
    workload = workload_of(small(**{"train.parameters": "lora,rank=4"}))
    one = dict.fromkeys(("stage", "data", "fsdp", "expert", "context", "tensor"), 1)
    # Of each layer w_q (D, N, H) and w_v (D, K, H), each (D, 4) and (4, ...).
    adapters = 4 * L * (D * 4 + 4 * N * H + D * 4 + 4 * K * H)
    assert workload.shard_bytes("params", one) == adapters
    assert workload.shard_bytes("moments", one, "moment") == 2 * adapters + 2 * 4
    layers = L * (D * H * (N + 2 * K) + N * H * D + 3 * D * F + 2 * D)
    assert workload.shard_bytes("fixed", one) == 4 * (layers + V * D + D)


# Bytes of all layers for each token, in bfloat16.
KEPT = {
    "full": 2 * D,
    "attention": 2 * (D + N * H),
    "projections": 2 * (D + (N + 2 * K) * H + N * H + F),
    "dots": 2 * (D + (N + 2 * K) * H + D + 2 * F),
    "names,keep=attention_sum,offload=qkv+mlp_in": 2 * (D + D),
    "names,keep=mlp_in,offload=layer_input": 2 * F,
}


@pytest.mark.parametrize("remat", KEPT)
def test_what_each_policy_keeps(remat: str):
    model = make_model(small()).config
    kept = kept_activations(model, remat, fused=False)
    one = {"tensor": 1}
    assert bytes_of(kept, rows=10, length=T, sizes=one, divides_length=True) == 10 * T * L * KEPT[remat]


def test_a_fused_attention_keeps_one_number_a_query_and_no_probabilities():
    model = make_model(small()).config
    of = {"length": T, "sizes": {"tensor": 1}, "divides_length": True}
    fused, plain = (bytes_of(kept_activations(model, "none", fused=f), rows=1 / T, **of) for f in (True, False))
    twice = bytes_of(kept_activations(model, "none", fused=False), rows=0.5 / T, **{**of, "length": 2 * T})
    assert twice - plain == L * N * T * (4 + 2)  # logits less their maximum in float32, probabilities in bfloat16
    assert fused < plain
    with_log = bytes_of(kept_activations(model, "attention", fused=True), rows=1 / T, **of)
    assert with_log == L * (KEPT["attention"] + 4 * N)  # the logarithm in float32


def test_tensor_divides_heads_and_hidden_dims_and_the_length_of_the_rest():
    model = make_model(small()).config
    kept = kept_activations(model, "projections", fused=False)
    of = {"rows": 1 / T, "length": T, "sizes": {"tensor": 2}}
    assert bytes_of(kept, divides_length=True, **of) == L * KEPT["projections"] / 2
    assert bytes_of(kept, divides_length=False, **of) == L * (KEPT["projections"] / 2 + D)


def test_the_terms_in_literal_numbers():
    """One device, full remat: fullest at the loss."""
    config = small(**{"model.remat": "full", "data.vocab_size": 4096})
    layers = L * (D * H * (N + 2 * K) + N * H * D + 3 * D * F)
    table, norms = 4096 * D, (2 * L + 1) * D
    memory = estimate_memory(workload_of(config), layout_of(config, abstract_mesh()))
    assert memory.moment == "loss"
    assert memory.terms == {
        "logits": 4 * B * T * 4096,
        "parameters": 4 * (layers + table + norms),
        "optimizer moments": 8 * (layers + table + norms) + 2 * 4,
        "head": 4 * table,
        "weights in the compute dtype": 2 * layers,
        "kept activations": L * B * T * 2 * D,
    }
    assert memory.total == sum(memory.terms.values())


def test_microbatches_halve_what_grows_with_rows_and_double_the_gradients():
    config = small(**{"model.remat": "full"})
    workload = workload_of(config)
    whole = layout_of(config, abstract_mesh())
    half = Layout(**whole.sizes, microbatch_rows=B // 2, remat="full", attention="plain")
    one, two = estimate_memory(workload, whole), estimate_memory(workload, half)
    assert two.terms["kept activations"] == one.terms["kept activations"] / 2
    assert two.terms["sums of gradients"] == workload.shard_bytes("params", whole.sizes)


def test_an_unused_axis_of_experts_makes_copies_of_tokens():
    """Without drops a device gets the tokens of all that share the experts, and those copies that chose its own."""
    config = small(**{"model.num_experts": 4, "model.experts_per_token": 2, "model.remat": "projections"})
    workload = workload_of(config)
    alone = estimate_memory(workload, layout_of(config, abstract_mesh({"data": 4})))
    shared = estimate_memory(workload, layout_of(config, abstract_mesh({"expert": 4})))
    hidden = L * (B // 4) * T * 2 * F * 2
    assert shared.terms["kept activations"] - alone.terms["kept activations"] == hidden  # 4 x 1 of 2 copies: twice


def test_each_tower_has_its_own_length():
    """Span corruption gives the encoder a whole row, and the decoder what is cut out of it."""
    spans = {"model.architecture": "encoder_decoder", "data.task": "span_corruption", "data.seq_len": 512}
    config = small(**spans, **{"data.tokenizer": "bpe,extra_ids=100", "model.position": "relative"})
    workload = workload_of(config)
    assert (workload.length, workload.encoder_length) == (114, 512)
    kept = kept_activations(make_model(config).config, "full", fused=True)
    # The inputs of all layers; the decoder's also keep what the encoder read, once.
    stacked = bytes_of(kept, rows=2, length=114, encoder_length=512, sizes={"tensor": 1}, divides_length=True)
    assert stacked == 2 * L * 2 * D * (114 + 512)
    plain = kept_activations(make_model(config).config, "none", fused=False)
    pairs = {one.lengths for one in plain if len(one.lengths) == 2}
    assert pairs == {"TT", "TS", "SS"}


def test_a_chunked_loss_has_the_logits_of_a_chunk():
    whole, chunked = (
        estimate_memory(workload_of(config), layout_of(config, abstract_mesh())).terms["logits"]
        for config in (
            small(**{"model.remat": "full", "data.vocab_size": 2**16, "train.objective": objective})
            for objective in ("auto", "auto,chunk=16")
        )
    )
    assert (whole, chunked) == (4 * B * T * 2**16, 4 * B * 16 * 2**16)


def test_attention_in_blocks_has_the_logits_of_a_block():
    """Of 1,024 queries 128 at a time: logits in float32, and probabilities and their gradient in bfloat16."""
    config = small(**{"model.remat": "full", "data.seq_len": 1024, "train.objective": "auto,chunk=16"})
    workload, layout = workload_of(config), layout_of(config, abstract_mesh())
    plain, blocked, splash = (
        estimate_memory(workload, dataclasses.replace(layout, attention=kind)).terms["working set of a layer"]
        for kind in ("plain", "blocked", "splash")
    )
    half_of_heads = (4 * N + 4 * K) * H * B * 1024 * 2 / 2
    assert plain - blocked == (4 + 2 * 2) * B * N * 1024 * (1024 - 128)
    assert blocked - splash == (4 + 2 * 2) * B * N * 1024 * 128 - half_of_heads


def test_a_frozen_base_is_gathered_too():
    lora = small(**{"train.parameters": "lora,rank=4", "model.remat": "full"})
    terms = [
        estimate_memory(workload_of(config), layout_of(config, abstract_mesh({"fsdp": 4}))).terms
        for config in (small(**{"model.remat": "full"}), lora)
    ]
    layer = D * H * (N + 2 * K) + N * H * D + 3 * D * F
    assert terms[0]["gathered weights of a layer"] == 2 * layer
    assert terms[1]["gathered weights of a layer"] >= 2 * layer


def test_compilers_for_gpus_put_off_the_gradient_of_the_head():
    """Several GPUs have the logits in the backward pass; and no copies of all layers' parameters ahead of it."""
    config = small(**{"model.remat": "full"})
    workload = workload_of(config)
    on = {
        (chip, size): estimate_memory(workload, layout_of(config, abstract_mesh({"data": size})), chip)
        for chip in ("v5p", "h100")
        for size in (1, 2)
    }
    assert [on[key].moment for key in on] == ["backward"] * 4
    assert [on[key].terms.get("logits", 0) for key in on] == [0, 0, 0, 4 * (B // 2) * T * V]
    assert ["weights in the compute dtype" in on[key].terms for key in on] == [True, True, False, False]
