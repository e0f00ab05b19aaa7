"""What several tests share."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import train
from configs import base
from model import Transformer, TransformerConfig
from parallel import MeshConfig, make_mesh
from train.optimizer import parameter_name


def command(name: str) -> Callable[[list[str]], None]:
    """A command's main; importing its module must not hide the function `train.evaluate` from later tests."""
    exported = dict(vars(train))
    main = importlib.import_module(f"train.{name}").main
    vars(train).update(exported)
    return main


@functools.cache
def random_model(**fields: Any) -> tuple[Transformer, Any]:
    """A tiny untied model whose random parameters are large enough that it does not repeat itself."""
    defaults: Any = base.get_config().model
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    shape: dict[str, Any] = {"vocab_size": 40, "vocab_multiple": 1, "max_length": 32, "num_layers": 2, "d_mlp": 32}
    shape |= {"d_model": 16, "num_heads": 4, "tie_embeddings": False} | fields
    model = Transformer(TransformerConfig(**({name: defaults[name] for name in defaults if name in names} | shape)))
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def one_device() -> Mesh:
    """A mesh of one device, to which every other is held."""
    return make_mesh(MeshConfig(data=1), devices=jax.devices()[:1])


def uneven_batch(config: ConfigDict, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of packed documents with very uneven weights: row 3 has one target, rows 6 and 7 have none."""
    rng = np.random.default_rng(seed)
    B, T = config.data.batch_size, config.data.seq_len
    cuts = rng.integers(1, T, size=B)
    segment_ids = 1 + (np.arange(T) >= cuts[:, None])
    positions = np.where(segment_ids == 2, np.arange(T) - cuts[:, None], np.arange(T))
    weights = (rng.random((B, T)) < rng.random((B, 1))).astype(np.float32)
    weights[3] = np.arange(T) == 5
    weights[6:8] = 0
    tokens = rng.integers(4, config.data.vocab_size, size=(B, T + 1)).astype(np.int32)
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": weights,
        "segment_ids": segment_ids.astype(np.int32),
        "positions": positions.astype(np.int32),
    }


def leaf_errors(tree, reference) -> dict[str, float]:
    """Largest difference of each leaf, relative to the norm of the reference's leaf over the root of its size."""
    errors = {}
    for (path, leaf), expected in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(reference), strict=True
    ):
        leaf, expected = np.asarray(leaf, np.float64), np.asarray(expected, np.float64)
        scale = max(np.sqrt(np.mean(np.square(expected))), 1e-12)
        errors[parameter_name(path)] = float(np.abs(leaf - expected).max() / scale)
    return errors
