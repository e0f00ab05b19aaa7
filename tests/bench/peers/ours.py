"""Palmette's step of a shape, as a worker: python -m tests.bench.peers.ours SHAPE [WEIGHTS.npz [CHANGES]]

All that a step of a run has is there: segment ids, positions, weights, metrics, clipping. With a path it writes the
first parameters there, for the others to start from; CHANGES are fields of the config as JSON.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from configs import base
from parallel import make_mesh, shard_batch
from tests.bench.peers import shapes
from tests.bench.peers.shapes import Shape
from tests.bench.peers.turns import serve
from train.runtime import set_up
from train.state import init_state
from train.step import make_train_step


def config_of(shape: Shape) -> Any:
    """The config of a shape; the learning rate is constant."""
    config = base.get_config()
    config.model.update(num_layers=shape.layers, d_model=shape.width, num_heads=shape.heads)
    config.model.update(num_kv_heads=shape.kv_heads, d_mlp=shape.hidden, tie_embeddings=shape.tied, dtype=shape.dtype)
    if shape.style == "gpt2":
        config.model.update(norm="layernorm", norm_eps=1e-5, bias="all", position="learned")
    else:
        config.model.update(norm_eps=1e-5, activation="swiglu", rope_theta=500_000.0)
    config.data.update(vocab_size=shape.vocab, seq_len=shape.length, batch_size=shape.rows)
    b1, b2 = shapes.BETAS
    config.optimizer.update(name=f"adamw,b1={b1},b2={b2},eps={shapes.EPS}", learning_rate=shapes.LEARNING_RATE)
    config.optimizer.update(weight_decay=shapes.DECAY, clip_norm=shapes.CLIP, schedule="constant", warmup_steps=0)
    if shape.dtype == "float32":  # on a CPU the loop over layers costs more than it saves
        config.model.scan_unroll = shape.layers
    return config


def batch_of(shape: Shape) -> dict[str, np.ndarray]:
    """A batch as the loader makes it."""
    inputs, targets = shapes.batch(shape)
    ones = np.ones_like(inputs)
    positions = np.broadcast_to(np.arange(shape.length, dtype=np.int32), inputs.shape)
    weights = np.ones(inputs.shape, np.float32)
    return {"inputs": inputs, "targets": targets, "weights": weights, "positions": positions, "segment_ids": ones}


def processor() -> str:
    """The name of the GPU, or of the processor."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def start(shape: Shape, weights: str = "", changes: dict[str, Any] | None = None) -> Callable[[int], float]:
    """Prepares to train; the function makes so many steps and returns the last one's loss.

    Args:
        shape: of the model.
        weights: a file for the first parameters; "" is none.
        changes: fields of the config.
    """
    config: Any = config_of(shape)
    config.update_from_flattened_dict(changes or {})
    mesh = make_mesh(config.mesh, devices=jax.devices()[:1])
    state = init_state(config, mesh)
    if weights:
        np.savez(weights, **{name: np.asarray(leaf) for name, leaf in flatten_dict(state.params, sep="/").items()})
    data, step = shard_batch(batch_of(shape), mesh), make_train_step(config, mesh)

    def run(steps: int) -> float:
        nonlocal state
        metrics: Any = {}
        for _ in range(steps):
            state, metrics = step(state, data)
        return float(metrics["loss"])

    return run


def main(argv: list[str]) -> None:
    """The worker."""
    set_up("")
    changes = json.loads(argv[2]) if len(argv) > 2 else {}
    serve(start(Shape.read(argv[0]), *argv[1:2], changes=changes), {"device": processor(), "cores": os.cpu_count()})


if __name__ == "__main__":
    main(sys.argv[1:])
