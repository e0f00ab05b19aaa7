"""The loss over the vocabulary in chunks equals that of all logits at once: sums, and every gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from model import Head
from parallel import MeshConfig, make_mesh, shard_batch
from parallel.collectives import collectives, totals
from tests.helpers import one_device, uneven_batch
from train import init_state
from train.ahead import compile_and_listen, lower_step
from train.compose import make_model
from train.evaluation import make_eval_step
from train.objective import make_objective
from train.step import make_train_step
from train.vocabulary import chunked_sum_tokens, sum_tokens
from train.workdir import config_difference

B, T, D, V = 2, 13, 8, 20
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "linear": ({}, 0.0),
    "z loss": ({}, 0.1),
    "scale, cap, bias, padding": ({"scale": 0.5, "cap": 2.0, "bias": True, "vocab_size": 17}, 0.1),
}


def head_of(dtype: str = "float32", *, bias: bool = False, **how: Any) -> tuple[Head, np.ndarray, np.ndarray]:
    """A head, targets and weights, of which one row has none."""
    rng = np.random.default_rng(0)
    x, table = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((B, T, D), (V, D)))
    how = {"scale": 1.0, "cap": 0.0, "vocab_size": V} | how
    weights = rng.random((B, T)).astype(np.float32)
    weights[1, 5:] = 0
    bias_V = jnp.asarray(rng.standard_normal(V), jnp.float32) if bias else None
    return Head(x, table, bias_V, **how), rng.integers(0, how["vocab_size"], (B, T)).astype(np.int32), weights


def value_and_gradients(head: Head, targets: np.ndarray, weights: np.ndarray, z_loss: float, chunk: int) -> Any:
    def loss(head: Head) -> Any:
        if chunk:
            total, nll = chunked_sum_tokens(head, jnp.asarray(targets), jnp.asarray(weights), z_loss, chunk=chunk)
        else:
            total, nll = sum_tokens(head.logits(), jnp.asarray(targets), jnp.asarray(weights), z_loss)
        return 0.25 * total, nll

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(head)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [4, 6, 12, 20])  # 13 positions and 3 of padding, 2, 1 and none
def test_chunks_give_the_loss_and_its_gradients(case: str, chunk: int):
    how, z_loss = CASES[case]
    head, targets, weights = head_of(**how)
    whole = value_and_gradients(head, targets, weights, z_loss, 0)
    chunked = value_and_gradients(head, targets, weights, z_loss, chunk)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, rtol=2e-6, atol=1e-6), whole, chunked)


def test_in_bfloat16_chunks_are_as_near_to_float32_as_all_at_once():
    exact = value_and_gradients(*head_of(), 0.1, 0)[1]
    errors = [
        np.max(np.abs(np.asarray(value_and_gradients(*head_of("bfloat16"), 0.1, chunk)[1].table_VD - exact.table_VD)))
        for chunk in (0, 3)
    ]
    assert errors[1] < 1.2 * errors[0] < 0.03


def test_no_array_has_the_logits_of_all_positions():
    head, targets, weights = head_of()

    def loss(head: Head, chunk: int) -> Any:
        return chunked_sum_tokens(head, jnp.asarray(targets), jnp.asarray(weights), 0.0, chunk=chunk)[0]

    def shapes(chunk: int) -> str:
        return jax.jit(jax.grad(loss), static_argnums=1).lower(head, chunk).as_text()

    assert f"{B}x1x{T}x{V}xf32" in shapes(T) or f"{B}x{T}x{V}xf32" in shapes(T)
    assert f"{T}x{V}xf32" not in shapes(4)
    assert f"4x{V}xf32" in shapes(4)
    assert f"5x{V}xf32" in shapes(6)  # three chunks of 5, with two positions of padding
    assert f"6x{V}xf32" not in shapes(6)


MESHES = {
    "fsdp and tensor": {"fsdp": 2, "tensor": 2, "data": 2},
    "context": {"context": 2, "fsdp": 2, "data": 2},
    "stage": {"stage": 2, "tensor": 2, "fsdp": 2, "data": 1},
}


@pytest.fixture
def changed(config: ConfigDict) -> ConfigDict:
    """All that a head may have."""
    config.model.update(head="bias", logit_soft_cap=3.0, tie_embeddings=False)
    config.train.update(z_loss=0.1)
    config.data.update(batch_size=16)
    return config


def step_of(config: ConfigDict, mesh: Any) -> Any:
    state, metrics = make_train_step(config, mesh)(
        init_state(config, mesh, seed=0), shard_batch(uneven_batch(config), mesh)
    )
    return jax.device_get(state.params), jax.device_get(metrics)


@pytest.mark.parametrize("name", MESHES)
def test_a_step_in_chunks_on_a_mesh_is_that_of_one_device(changed: ConfigDict, name: str):
    whole = step_of(changed, one_device())
    changed.train.update(objective="auto,chunk=4", microbatch_rows=2)
    changed.mesh.update(MESHES[name])
    chunked = step_of(changed, make_mesh(MeshConfig(**MESHES[name])))
    for key in ("loss", "nll", "grad_norm"):
        np.testing.assert_allclose(chunked[1][key], whole[1][key], rtol=2e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, atol=2e-4), whole[0], chunked[0])


def test_the_gradient_of_an_untied_table_is_not_gathered(config: ConfigDict):
    """It was there once: 512 x 64 numbers in float32, one all-gather more than these."""
    config.model.update(num_layers=1, d_model=64, num_heads=2, num_kv_heads=2, d_mlp=64, tie_embeddings=False)
    config.data.update(vocab_size=512, batch_size=4)
    config.train.objective = "auto,chunk=8"
    mesh = make_mesh(MeshConfig(data=1, fsdp=2), devices=jax.devices()[:2])
    compiled = compile_and_listen(lower_step(config, mesh))
    assert totals(collectives(compiled.text, mesh.shape))["all-gather", ("fsdp",)].tensors <= 14


@pytest.mark.parametrize("how", [{"head": "transform"}, {"tie_embeddings": True, "vocab_multiple": 256}])
def test_every_head_gives_the_model_s_gradients_in_chunks(config: ConfigDict, how: dict[str, Any]):
    config.model.update(how)
    model, batch = make_model(config), {name: jnp.asarray(x) for name, x in uneven_batch(config).items()}
    params = init_state(config, one_device()).params

    def gradients(text: str) -> Any:
        config.train.objective = text
        objective = make_objective(config)
        return jax.jit(jax.grad(lambda params: objective(model.apply, params, batch, None)[0]))(params)

    whole, chunked = gradients("auto"), gradients("tokens,chunk=8")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, rtol=2e-5, atol=2e-5), whole, chunked)


def test_an_evaluation_in_chunks_is_the_same(config: ConfigDict):
    mesh = one_device()
    params, batch = init_state(config, mesh).params, shard_batch(uneven_batch(config), mesh)
    whole = make_eval_step(config, mesh)(params, batch)[0]
    config.train.objective = "auto,chunk=8"
    chunked = make_eval_step(config, mesh)(params, batch)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, rtol=1e-6), whole, chunked)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("auto,chunk=-1", "chunk must be 0"),
        ("classes,chunk=8", "chunk is for losses over the vocabulary, not for 'classes'"),
        ("auto,chunks=8", "'chunks' is no option of 'auto'; it has chunk="),
    ],
)
def test_chunks_that_cannot_be_are_refused(config: ConfigDict, text: str, said: str):
    config.train.objective = text
    with pytest.raises(ValueError, match=said):
        make_objective(config)


def test_a_run_goes_on_with_other_chunks(config: ConfigDict):
    other = config.copy_and_resolve_references()
    other.train.objective = "auto, chunk=8"
    assert config_difference(config, other)[0] == {}
    other.train.objective = "tokens"
    assert list(config_difference(config, other)[0]) == ["train.objective"]
