"""Every family trains, and under fsdp=2, tensor=2 as on one device: twenty steps each.

The models are those that are held to transformers in tests/test_golden.py.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data import make_batches
from model.families import FAMILIES
from parallel import MeshConfig, make_mesh, shard_batch
from tests.helpers import one_device
from tests.reference.models import REFERENCES
from tests.reference.weights import GOLDEN
from train import init_state, make_train_step, objective

NUM_STEPS = 20
LOSS_BOUND = 1e-5  # relative; float32 sums in another order, which twenty updates carry on
MASK = 2


def core_of(reference: str) -> dict[str, Any]:
    """The core's config of a golden model."""
    if reference == "lstm":
        return {"block": "lstm", "position": "none", "d_model": 40, "num_layers": 2}
    golden = json.loads((GOLDEN / f"{reference}.json").read_text())
    family = FAMILIES[golden["config"]["model_type"]]
    names = {family.name_in_table(name) for name in golden["tensors"]}
    return family.from_hugging_face(golden["config"], names)


def classify(
    apply_fn: Any, params: Any, batch: Mapping[str, Array], keys_B: Array | None
) -> tuple[Array, Array, dict[str, Array]]:
    """The objective of images: their labels."""
    logits_BC = apply_fn({"params": params}, batch["inputs"], dropout_keys_B=keys_B)
    nll_B, _ = objective.cross_entropy(logits_BC[:, None], batch["labels"][:, None])
    return jnp.sum(nll_B), jnp.asarray(batch["labels"].size, jnp.float32), {"nll": jnp.sum(nll_B)}


def batch_for(core: dict[str, Any], batch: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """What a model of this kind learns from windows of text."""
    tokens, rng = batch["inputs"], np.random.default_rng(step)
    architecture = core.get("architecture", "decoder")
    if core.get("image"):  # ids as brightness, by which the label can be told
        pixels = np.stack([np.resize(row, (12, 12, 3)) for row in tokens]).astype(np.float32) / 300
        return {"inputs": pixels, "labels": (tokens.mean(axis=1) > tokens.mean()).astype(np.int32)}
    if architecture == "encoder":
        masked = (rng.random(tokens.shape) < 0.3) & (batch["segment_ids"] > 0)
        weights = masked.astype(np.float32)
        return batch | {"inputs": np.where(masked, MASK, tokens), "targets": tokens, "weights": weights}
    if architecture.startswith("encoder_decoder"):
        return batch | {f"encoder_{name}": batch[name] for name in ("inputs", "positions", "segment_ids")}
    return batch


def losses(config: ConfigDict, core: dict[str, Any], mesh: Mesh, num_steps: int = NUM_STEPS) -> list[float]:
    state, step = init_state(config, mesh), make_train_step(config, mesh)
    found = []
    for i, batch in zip(range(num_steps), make_batches(config.data, seed=0), strict=False):
        state, metrics = step(state, shard_batch(batch_for(core, batch, i), mesh))
        found.append(float(metrics["loss"]))
    return found


VARIANTS = ("llama3", "llama_yarn", "phi3_longrope", "bert_model")  # of a family that is there already


@pytest.mark.parametrize("reference", [*(name for name in REFERENCES if name not in VARIANTS), "lstm"])
def test_twenty_steps_under_fsdp_and_tensor_equal_one_device(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch, reference: str
):
    core = core_of(reference)
    config.model.update({name: value for name, value in core.items() if name not in ("vocab_size", "dtype")})
    config.model.vocab_multiple = 64
    if config.model.attention_scale == 1.0:
        config.model.attention_scale = 0.0  # T5's choices are nearly hard, which magnifies rounding a hundredfold
    config.optimizer.update(name="adamw,eps=1e-2", clip_norm=0.0, learning_rate=0.01)
    if core.get("image"):
        monkeypatch.setitem(objective.OBJECTIVES, "tokens", lambda config: classify)
    if core.get("num_kv_heads", 2) % 2:
        config.mesh.replaced_rules = "kv_heads="
    alone = losses(config, core, one_device())
    divided = losses(config, core, make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), devices=jax.devices()[:4]))
    np.testing.assert_allclose(divided, alone, rtol=LOSS_BOUND)
    assert np.mean(alone[-5:]) < np.mean(alone[:5])


@pytest.mark.parametrize("reference", ["gemma2", "deepseek_v3"])
def test_stages_hold_layers_of_every_kind(config: ConfigDict, reference: str):
    """Windows that alternate, and dense layers before those with experts, which every stage computes."""
    core = core_of(reference)
    config.model.update({name: value for name, value in core.items() if name not in ("vocab_size", "dtype")})
    if reference == "gemma2":
        config.model.update(num_layers=4, layer_pattern="LG")
    config.model.update(dropout=0.1, vocab_multiple=64)
    config.optimizer.update(name="adamw,eps=1e-2", clip_norm=0.0, learning_rate=0.01)
    config.train.microbatch_rows = 2
    alone = losses(config, core, one_device(), num_steps=4)
    divided = losses(config, core, make_mesh(MeshConfig(data=1, stage=2), devices=jax.devices()[:2]), num_steps=4)
    np.testing.assert_allclose(divided, alone, rtol=1e-6)
