"""From logical axes to mesh axes, for parameters and batches, on eight simulated devices."""

import dataclasses
import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import base
from model import Transformer, TransformerConfig
from parallel import (
    BATCH_AXES,
    RULES,
    MeshConfig,
    batch_sharding,
    local_rows,
    make_mesh,
    make_rules,
    on_mesh,
    shard_batch,
    to_host,
    tree_shardings,
)


def make_model(**changes) -> Transformer:
    defaults: Any = base.get_config().model
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    shape: dict[str, Any] = {
        "vocab_size": 60,
        "vocab_multiple": 64,
        "max_length": 16,
        "num_layers": 2,
        "d_model": 32,
        "d_mlp": 48,
    }
    shape |= {"num_kv_heads": 2} | changes
    return Transformer(TransformerConfig(**({name: defaults[name] for name in defaults if name in names} | shape)))


def init(model: Transformer) -> Any:
    """Parameters boxed with their logical axes."""
    return model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def abstract_params(**changes) -> Any:
    return jax.eval_shape(functools.partial(init, make_model(**changes)))


MIXED = MeshConfig(data=2, fsdp=2, tensor=2)
# What a tiny test waits for is the compiler.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# ---- rules


def test_the_default_rules():
    assert dict(make_rules()) == {
        "layers": ("stage",),
        "dense_layers": (),
        "embed": ("fsdp",),
        "vocab": ("tensor", "stage"),
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "head_dim": (),
        "mlp": ("tensor",),
        "experts": ("expert",),
        **dict.fromkeys(("router_experts", "latent", "rank", "gates", "classes", "token_types", "buckets"), ()),
        "norm": (),
        "length_table": (),
        "batch": ("data", "fsdp", "expert"),
        "length": ("context",),
        "residual_length": ("context", "tensor"),
        "act_embed": (),
        "expert_batch": ("data", "fsdp"),
    }
    assert BATCH_AXES == ("data", "fsdp", "expert")


def test_single_rules_can_be_replaced():
    rules = make_rules("zero3", " embed= , vocab=fsdp+tensor,mlp=tensor")
    changed = {name: axes for name, axes in rules if axes != dict(RULES["zero3"])[name]}
    assert changed == {"embed": (), "vocab": ("fsdp", "tensor")}
    assert make_rules("zero3", "") == RULES["zero3"]


@pytest.mark.parametrize(
    ("preset", "replaced", "said"),
    [
        ("fast", "", ["config.mesh.rules='fast'", "use one of zero1, zero2, zero3"]),
        (
            "zero3",
            "width=fsdp",
            ["config.mesh.replaced_rules", "'width' is no logical axis", "embed, layers, dense_layers, vocab"],
        ),
        ("zero3", "embed=model", ["config.mesh.replaced_rules", "'model' is no mesh axis", "'fsdp'"]),
        ("zero3", "vocab", ["config.mesh.replaced_rules", "'vocab'", "="]),
    ],
)
def test_rules_that_do_not_parse_name_the_key_and_legal_values(preset, replaced, said):
    with pytest.raises(ValueError, match="config") as error:
        make_rules(preset, replaced)
    for part in said:
        assert part in str(error.value)


# ---- parameters


def specs(mesh_config: MeshConfig, replaced: str = "", **changes) -> dict[str, tuple]:
    shardings = tree_shardings(abstract_params(**changes), make_mesh(mesh_config), make_rules("zero3", replaced))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(sharding.spec)
        for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)
    }


def test_shardings_of_each_parameter():
    choices = {"bias": "all", "qk_norm": "head", "tie_embeddings": False, "position": "learned"}
    assert specs(MIXED, norm="layernorm", activation="swiglu", **choices) == {
        "embedding": (("tensor", "stage"), "fsdp"),
        "positions": (None, "fsdp"),
        "head": (("tensor", "stage"), "fsdp"),
        "final_norm/scale": (None,),
        "final_norm/bias": (None,),
        "layers/attention_norm/scale": ("stage", None),
        "layers/attention_norm/bias": ("stage", None),
        "layers/attention/w_q": ("stage", "fsdp", "tensor", None),
        "layers/attention/w_k": ("stage", "fsdp", "tensor", None),
        "layers/attention/w_v": ("stage", "fsdp", "tensor", None),
        "layers/attention/w_out": ("stage", "tensor", None, "fsdp"),
        "layers/attention/b_q": ("stage", "tensor", None),
        "layers/attention/b_k": ("stage", "tensor", None),
        "layers/attention/b_v": ("stage", "tensor", None),
        "layers/attention/b_out": ("stage", None),
        "layers/attention/q_norm": ("stage", None),
        "layers/attention/k_norm": ("stage", None),
        "layers/mlp_norm/scale": ("stage", None),
        "layers/mlp_norm/bias": ("stage", None),
        "layers/mlp/w_gate": ("stage", "fsdp", "tensor"),
        "layers/mlp/w_in": ("stage", "fsdp", "tensor"),
        "layers/mlp/w_out": ("stage", "tensor", "fsdp"),
        "layers/mlp/b_gate": ("stage", "tensor"),
        "layers/mlp/b_in": ("stage", "tensor"),
        "layers/mlp/b_out": ("stage", None),
    }


@pytest.mark.parametrize(
    ("preset", "parameter", "gradient", "moment"),
    [("zero1", None, None, "fsdp"), ("zero2", None, "fsdp", "fsdp"), ("zero3", "fsdp", "fsdp", "fsdp")],
)
def test_the_stages_of_zero_divide_parameters_gradients_and_moments(preset, parameter, gradient, moment):
    tree, mesh, rules = abstract_params(), make_mesh(MIXED), make_rules(preset)
    for of, axis in (("", parameter), ("gradient", gradient), ("moment", moment)):
        sharding = tree_shardings(tree, mesh, rules, of=of)["layers"]["mlp"]["w_in"]
        assert sharding.spec == PartitionSpec("stage", axis, "tensor"), of


def test_replaced_rules_reach_the_parameters():
    replaced = specs(MIXED, "embed=,vocab=fsdp+tensor")
    assert replaced["embedding"] == (("fsdp", "tensor"), None)
    assert replaced["layers/mlp/w_in"] == ("stage", None, "tensor")


def test_a_rule_that_asks_for_an_axis_twice_is_an_error_and_not_dropped():
    # The embedding is (vocab, embed): "fsdp" cannot divide both of its dims.
    with pytest.raises(ValueError, match=r"embedding.*'vocab'.*'fsdp'.*config\.mesh\.replaced_rules"):
        specs(MIXED, "vocab=fsdp+tensor")


def test_leaves_without_logical_axes_are_replicated():
    tree = {"count": jax.ShapeDtypeStruct((), jnp.int32), "plain": jax.ShapeDtypeStruct((3, 5), jnp.float32)}
    mesh = make_mesh(MIXED)
    shardings = tree_shardings(tree, mesh, make_rules())
    for sharding in shardings.values():
        assert sharding.is_fully_replicated
        assert sharding.mesh == mesh


@pytest.mark.parametrize(
    ("mesh_config", "changes", "said"),
    [
        (MeshConfig(tensor=4), {}, ["w_k", "has 2 in dim 2 ('kv_heads')", "config.mesh.tensor=4", "[1, 2]"]),
        (MeshConfig(data=1, tensor=8), {"num_kv_heads": 4}, ["config.mesh.tensor=8", "[1, 2, 4]"]),
        (
            MeshConfig(fsdp=8),
            {"d_model": 36, "head_dim": 8},
            ["has 36", "'embed'", "config.mesh.fsdp=8", "[1, 2, 3, 4, 6]"],
        ),
    ],
)
def test_a_dim_that_is_not_divisible_names_the_keys_and_legal_values(mesh_config, changes, said):
    with pytest.raises(ValueError, match="config") as error:
        specs(mesh_config, **changes)
    for part in said:
        assert part in str(error.value)


def test_logits_and_initialisation_do_not_depend_on_the_mesh():
    model, tokens = make_model(), np.arange(8 * 4, dtype=np.int32).reshape(8, 4)
    mesh, rules = make_mesh(MIXED), make_rules()
    shardings = tree_shardings(jax.eval_shape(functools.partial(init, model)), mesh, rules)

    def init_plain():
        return nn.unbox(init(model))

    single = jit(init_plain)()
    params = on_mesh(jit(init_plain, out_shardings=shardings), mesh, rules)()
    assert params["embedding"].addressable_shards[0].data.shape == (32, 16)
    jax.tree.map(np.testing.assert_array_equal, to_host(params), to_host(single))
    expected = jit(model.apply)({"params": single}, tokens)
    logits = on_mesh(jit(model.apply), mesh, rules)({"params": params}, shard_batch({"x": tokens}, mesh)["x"])
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert logits.sharding.spec == PartitionSpec(("data", "fsdp"), None, "tensor")


# ---- batches


@pytest.mark.parametrize("mesh_config", [MeshConfig(), MIXED, MeshConfig(data=1, tensor=8)])
def test_one_process_supplies_all_rows(mesh_config):
    assert local_rows(make_mesh(mesh_config), 16) == list(range(16))


@pytest.mark.parametrize(("batch_size", "legal"), [(1, 8), (3, 8), (13, 16), (20, 16), (30, 32)])
def test_a_batch_that_is_not_divisible_names_a_size_that_works(batch_size, legal):
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    with pytest.raises(
        ValueError, match=rf"config\.data\.batch_size={batch_size} .*8 shards .*data=4.*fsdp=2"
    ) as error:
        local_rows(mesh, batch_size)
    said = re.search(r"use (\d+)$", str(error.value))
    assert said is not None
    assert int(said[1]) == legal
    assert local_rows(mesh, legal) == list(range(legal))


def test_rows_of_a_batch_are_divided_over_data_and_fsdp():
    mesh = make_mesh(MIXED)
    batch = {"tokens": np.arange(8 * 6).reshape(8, 6).astype(np.int32), "weights": np.ones((8, 6), np.float32)}
    placed = shard_batch(batch, mesh)
    assert placed.keys() == batch.keys()
    assert placed["tokens"].sharding == batch_sharding(mesh)
    assert placed["weights"].dtype == jnp.float32
    rows = {shard.device.id: np.asarray(shard.data) for shard in placed["tokens"].addressable_shards}
    for data, fsdp, tensor in np.ndindex(2, 2, 2):  # devices of one tensor group hold the same two rows
        start = 4 * data + 2 * fsdp
        np.testing.assert_array_equal(rows[4 * data + 2 * fsdp + tensor], batch["tokens"][start : start + 2])


def test_to_host_fetches_sharded_and_replicated_arrays():
    mesh, values = make_mesh(MIXED), np.arange(16.0, dtype=np.float32).reshape(8, 2)
    tree = {"sharded": jax.device_put(values, batch_sharding(mesh))}
    tree["replicated"] = jax.device_put(values, NamedSharding(mesh, PartitionSpec()))
    for fetched in to_host(tree).values():
        assert type(fetched) is np.ndarray
        np.testing.assert_array_equal(fetched, values)
