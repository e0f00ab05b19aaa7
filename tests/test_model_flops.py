"""Counts on paper against the real parameter tree, XLA's own count, and brute force."""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from model import (
    Transformer,
    TransformerConfig,
    count_params,
    forward_flops,
    loop_layers,
    recomputed_flops,
    scan_layers,
)
from model.flops import seen_positions


def make_config(**changes) -> TransformerConfig:
    defaults: Any = base.get_config().model
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    shape: dict[str, Any] = {
        "vocab_size": 40,
        "vocab_multiple": 16,
        "max_length": 16,
        "num_layers": 3,
        "d_model": 32,
        "d_mlp": 48,
    }
    return TransformerConfig(**({name: defaults[name] for name in defaults if name in names} | shape | changes))


CHOICES = {
    "bias": ("none", "qkv", "all"),
    "norm": ("rmsnorm", "layernorm"),
    "qk_norm": ("none", "head", "all"),
    "activation": ("gelu", "swiglu"),
    "position": ("rope", "learned"),
    "tie_embeddings": (True, False),
    "num_kv_heads": (4, 2),
    "head_dim": (0, 24),
}
# Each choice alone, each pair of them, and all at once.
GRID = [
    {name: CHOICES[name][name in changed] for name in CHOICES}
    for count in (0, 1, 2, len(CHOICES))
    for changed in itertools.combinations(CHOICES, count)
]


def test_counted_parameters_are_those_of_the_tree():
    assert len(GRID) == 1 + 8 + 28 + 1
    for choices in GRID:
        config = make_config(**choices)
        params = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
        counts = count_params(config)
        assert counts["embedding"] == sizes["embedding"] + sizes.get("positions", 0), choices
        assert counts["layers"] == sizes["layers"], choices
        assert counts["head"] == sizes["final_norm"] + sizes.get("head", 0), choices
        assert counts["total"] == sum(sizes.values()), choices


def test_counted_parameters_of_gpt2_small():
    # The released model has 124,439,808: Radford et al. 2019, with a vocabulary of 50257 and 1024 positions.
    gpt2 = {"vocab_size": 50257, "vocab_multiple": 1, "max_length": 1024, "d_model": 768, "d_mlp": 3072}
    gpt2 |= {"num_layers": 12, "num_heads": 12, "num_kv_heads": 12, "norm": "layernorm", "bias": "all"}
    assert count_params(make_config(**gpt2, position="learned"))["total"] == 124_439_808


EXPERTS = {"num_experts": 4, "d_expert": 24, "d_shared_expert": 40, "num_dense_layers": 1, "balance_bias_rate": 0.1}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {"architecture": "encoder", "block": "post", "token_types": 2, "embedding_norm": "norm", "bias": "all"}
    | {"norm": "layernorm", "position": "learned,offset=2", "head": "transform", "classifier": "tanh,classes=3"},
    "t5": {"architecture": "encoder_decoder,encoder_layers=2", "position": "relative,buckets=8"},
    "gemma": {"block": "both", "window": 4, "layer_pattern": "LLG", "norm": "zero_centered_rmsnorm"},
    "mixed values": {"value_mix": "first_layer+embedding,tables=2", "num_kv_heads": 2, **EXPERTS},
    "deepseek": {"latent_attention": "latent,kv=12,rope=4,value=10,query=14", **EXPERTS},
    "mixtral": {**EXPERTS, "bias": "all", "activation": "swiglu"},
    "lstm": {"block": "lstm", "position": "none"},
    "vit": {"architecture": "encoder", "image": "patches,size=8,patch=4", "classifier": "first,classes=5"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_counted_parameters_of_families_are_those_of_the_tree(family):
    config = make_config(**FAMILIES[family])
    inputs = jnp.zeros((1, 8, 8, 3)) if config.image else jnp.zeros((1, 1), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), inputs)["params"]
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    counts = count_params(config)
    assert counts["layers"] == sum(size for name, size in sizes.items() if name.endswith("layers"))
    after = ("final_norm", "encoder_final_norm", "head", "head_transform", "head_norm", "head_bias")
    assert counts["head"] == sum(sizes.get(name, 0) for name in (*after, "pooler", "classifier"))
    assert counts["total"] == sum(sizes.values())


@pytest.mark.parametrize(
    "choices",
    [
        {"activation": "gelu", "num_kv_heads": 4},
        {"activation": "swiglu", "num_kv_heads": 1, "tie_embeddings": False, "head_dim": 32},
        {"latent_attention": "latent,kv=64,rope=32,value=48,query=96", "head_dim": 64},
    ],
    ids=["gelu", "swiglu mqa", "latent"],
)
def test_flops_are_those_that_xla_counts(choices):
    config = make_config(d_model=256, d_mlp=1024, vocab_size=512, vocab_multiple=1, num_layers=2, **choices)
    model, tokens = Transformer(config, stack_fn=loop_layers), jax.ShapeDtypeStruct((1, 128), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    analysis = jax.jit(model.apply).lower(variables, tokens).compile().cost_analysis()
    assert analysis is not None
    # XLA also counts norms, softmax and the like: less than one percent at this size.
    assert 1.0 < analysis["flops"] / forward_flops(config, 128, causal=False) < 1.012


def test_flops_of_a_literal_config():
    # One layer, one head of size 2, D = 2, F = 3, V = 5, T = 4: multiply-adds a token are 4 * 2 * 2 in the attention
    # projections, 2 * 2 * 3 in the MLP, 5 * 2 in the head, and 2 * 2 a position seen; a multiply-add is 2 operations.
    tiny = {"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "d_model": 2, "d_mlp": 3, "vocab_size": 5}
    config = make_config(**tiny, vocab_multiple=1)
    assert forward_flops(config, 4, causal=False) == 2 * 4 * (16 + 12 + 10 + 4 * 4)
    assert forward_flops(config, 4) == 2 * 4 * (16 + 12 + 10 + 4 * 2.5)
    assert forward_flops(dataclasses.replace(config, window=1), 4) == 2 * 4 * (16 + 12 + 10 + 4 * 1)
    assert forward_flops(dataclasses.replace(config, activation="geglu"), 4) == 2 * 4 * (16 + 18 + 10 + 4 * 2.5)
    assert forward_flops(dataclasses.replace(config, vocab_multiple=8), 4) == 2 * 4 * (16 + 12 + 16 + 4 * 2.5)


@pytest.mark.parametrize(
    ("length", "window", "seen"), [(1, 0, 1), (4, 0, 2.5), (99, 0, 50), (4, 1, 1), (4, 2, 1.75), (4, 9, 2.5)]
)
def test_seen_positions_of_literal_cases(length, window, seen):
    assert seen_positions(length, window) == seen


def test_seen_positions_are_the_mean_row_sum_of_the_mask():
    for length, window in itertools.product((1, 2, 7, 16), (0, 1, 3, 7, 16, 40)):
        distance = np.subtract.outer(np.arange(length), np.arange(length))
        mask = (distance >= 0) & (distance < (window or length))
        assert seen_positions(length, window) == pytest.approx(mask.sum() / length)


def matmul_operations(jaxpr: Any) -> float:
    """Operations of the products in a traced program, loops multiplied out."""
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(matmul_operations(getattr(value, "jaxpr", value)) for value in inner)
        if equation.primitive.name == "dot_general":
            ((summed, _), _), (left, _) = equation.params["dimension_numbers"], equation.invars
            depth = math.prod(left.aval.shape[dim] for dim in summed)
            total += 2 * depth * equation.outvars[0].aval.size
    return total


NAMED = ("names,keep=qkv+mlp_in", "names,keep=attention_out+mlp_gate,offload=attention_sum+mlp_in+layer_input")


@pytest.mark.parametrize("remat", ["full", "dots", "attention", "projections", *NAMED])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_what_remat_computes_again_is_what_jax_traces(remat: str, activation: str):
    config = make_config(activation=activation)
    tokens = jnp.zeros((1, 16), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens[:, :1])["params"]

    def operations(remat: str) -> float:
        model = Transformer(config, stack_fn=functools.partial(scan_layers, remat=remat))
        loss = jax.grad(lambda params: jnp.sum(model.apply({"params": params}, tokens)))
        return matmul_operations(jax.make_jaxpr(loss)(params).jaxpr)

    again = operations(remat) - operations("none")
    assert again == recomputed_flops(config, 16, remat, keeps=True, skips=False)


@pytest.mark.parametrize("remat", ["full", "attention", "projections"])
def test_both_towers_compute_again_what_their_own_lengths_ask(remat: str):
    config = make_config(architecture="encoder_decoder", position="relative")
    tokens, encoder_tokens = jnp.zeros((1, 8), jnp.int32), jnp.zeros((1, 16), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens[:, :1])["params"]

    def operations(remat: str) -> float:
        model = Transformer(config, stack_fn=functools.partial(scan_layers, remat=remat))
        loss = jax.grad(
            lambda params: jnp.sum(model.apply({"params": params}, tokens, encoder_tokens_BS=encoder_tokens))
        )
        return matmul_operations(jax.make_jaxpr(loss)(params).jaxpr)

    again = operations(remat) - operations("none")
    assert again == recomputed_flops(config, 8, remat, encoder_length=16, keeps=True, skips=False)
