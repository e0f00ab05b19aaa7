"""Palmette's step of a shape, as a worker (tests/bench/peers/turns.py).

All that a step of a run has is there: segment ids, positions, weights, metrics, clipping.
"""

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from configs import base
from parallel import make_mesh, shard_batch
from tests.bench.peers import shapes
from tests.bench.peers.shapes import Shape, Texts
from tests.bench.peers.turns import Peer, serve
from train.evaluation import make_eval_step
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


def batch_of(inputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """A batch as the loader makes it, of ids (rows, length)."""
    ones = np.ones_like(inputs)
    positions = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    weights = np.ones(inputs.shape, np.float32)
    return {"inputs": inputs, "targets": targets, "weights": weights, "positions": positions, "segment_ids": ones}


def processor() -> str:
    """The name of the GPU, or of the processor."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def start(
    shape: Sequence[Any], *, weights: str = "", texts: str = "", changes: dict[str, Any] | None = None, seed: int = 0
) -> Peer:
    """Prepares to train.

    Args:
        shape: of the model, the fields of a `Shape`.
        weights: a file to write the first parameters to, for the others to start from; "" is none.
        texts: a file of `Texts`; "" is random tokens.
        changes: fields of the config.
        seed: of the first parameters.
    """
    shape = Shape(*shape)
    config: Any = config_of(shape)
    config.update_from_flattened_dict(changes or {})
    mesh = make_mesh(config.mesh, devices=jax.devices()[:1])
    state = init_state(config, mesh, seed=seed)
    if weights:
        np.savez(weights, **{name: np.asarray(leaf) for name, leaf in flatten_dict(state.params, sep="/").items()})
    read = Texts.read(shape, texts)
    data = [shard_batch(batch_of(*pair), mesh) for pair in zip(read.inputs, read.targets, strict=True)]
    held = [shard_batch(batch_of(*pair), mesh) for pair in zip(read.valid_inputs, read.valid_targets, strict=True)]
    step, eval_step, count = make_train_step(config, mesh), make_eval_step(config, mesh), 0

    def run(steps: int) -> float:
        nonlocal state, count
        metrics: Any = {}
        for _ in range(steps):
            state, metrics = step(state, data[count % len(data)])
            count += 1
        return float(metrics["loss"])

    def valid() -> float:
        sums = [eval_step(state.params, batch)[0] for batch in held]
        return statistics.fmean(float(one["nll"] / one["weight"]) for one in sums)

    return Peer(run, valid)


if __name__ == "__main__":
    set_up("")
    serve(start, {"device": processor(), "cores": os.cpu_count()})
