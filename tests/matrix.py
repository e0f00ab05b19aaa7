"""The equivalence matrix: the same three steps on one device and on every split of the work.

tests/test_equivalence.py holds each case to its bounds, tests/bench/equivalence.py writes the measured errors to docs/.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from configs import base
from parallel import AXES, BATCH_AXES, make_mesh, shard_batch
from tests.helpers import one_device, uneven_batch
from train import TrainState, init_state, make_train_step
from train.optimizer import parameter_name
from train.state import abstract_state

NUM_STEPS = 3
# Every axis at 2, 4 and 8, and 2 x 2 x 2 of all twenty triples; data is 1 where it is not named.
SINGLE = [{axis: size} for axis in AXES for size in (2, 4, 8)]
TRIPLES = [dict.fromkeys(triple, 2) for triple in itertools.combinations(AXES, 3)]
# Choices within an axis: ZeRO stages, forms of attention and of experts, schedules.
CHOICES: list[dict[str, Any]] = [
    {"fsdp": 4, "rules": "zero1"},
    {"fsdp": 4, "rules": "zero2"},
    {"data": 2, "fsdp": 2, "replaced_rules": "embed=data+fsdp,vocab="},
    {"context": 4, "context_attention": "all_to_all"},
    {"expert": 4, "capacity": 1.0},
    {"stage": 4, "schedule": "gpipe"},
    {"stage": 2, "schedule": "interleaved,chunks=2"},
    {"stage": 2, "schedule": "zero_bubble"},
]
ALL_SIX = dict.fromkeys(AXES, 2)  # on 64 devices


class Errors(NamedTuple):
    """What a split changes, relative to one device; the largest over steps or parameters.

    Attributes:
        loss: of three steps, relative.
        gradient: of the first step, norm of the difference over the norm, parameter by parameter.
        parameter: after three steps, the same way.
        worst: the parameter whose gradient differs most.
    """

    loss: float
    gradient: float
    parameter: float
    worst: str


def name_of(case: dict[str, Any]) -> str:
    """Such as "fsdp=2 tensor=2"."""
    return " ".join(f"{key}={value}" for key, value in case.items())


def make_config(case: dict[str, Any]) -> Any:
    """A model with what could depend on the split: dropout, biases, odd sizes, grouped heads, a padded vocabulary.

    Gradients are not clipped and Adam's eps is far above rounding errors, so that parameters show the gradients.
    """
    config: Any = base.get_config()
    config.model.update(num_layers=4, d_model=32, num_heads=8, num_kv_heads=8, d_mlp=48, dropout=0.1, bias="all")
    config.model.update(norm="layernorm", activation="swiglu", qk_norm="head", tie_embeddings=False, vocab_multiple=64)
    config.data.update(vocab_size=300, seq_len=32, batch_size=16)
    config.optimizer.update(name="adamw,eps=1e-2", clip_norm=0.0, learning_rate=0.01, warmup_steps=0)
    if "expert" in case:
        config.model.update(num_experts=8, experts_per_token=2, expert_capacity=case.get("capacity", 0.0))
    if case.get("stage") == 8:
        config.model.num_layers = 8
    config.mesh.update({"data": 1} | {key: value for key, value in case.items() if key != "capacity"})
    shards = math.prod(config.mesh[axis] for axis in BATCH_AXES)
    # A row at a time over many shards, two over few: gradients are always accumulated.
    config.train.microbatch_rows = 1 if shards > 4 or config.mesh.stage > 1 else 2
    return config


def kind_of(config: Any) -> tuple[Any, ...]:
    """What two configs with the same result on one device have in common."""
    return (config.model.num_layers, config.model.num_experts, config.model.expert_capacity)


@functools.cache
def initial_state(kind: tuple[Any, ...]) -> TrainState:
    """The state that all splits start from, on the host."""
    config = make_config({})
    config.model.update(num_layers=kind[0], num_experts=kind[1], expert_capacity=kind[2])
    return jax.tree.map(np.asarray, init_state(config, one_device()))


def steps(config: Any, mesh: jax.sharding.Mesh) -> tuple[list[float], dict[str, np.ndarray], dict[str, Any]]:
    """Losses, first gradients and last parameters."""
    abstract = abstract_state(config, mesh)
    state = jax.tree.map(
        lambda leaf, like: jax.device_put(leaf, like.sharding), initial_state(kind_of(config)), abstract
    )
    step = make_train_step(config, mesh)
    losses, gradients = [], {}
    for i in range(NUM_STEPS):
        state, metrics = step(state, shard_batch(uneven_batch(config, i), mesh))
        losses.append(float(metrics["loss"]))
        if i == 0:  # Adam's first moment is (1 - b1) times the gradient
            moments = {name: leaf for name, leaf in leaves(state.opt_state).items() if "/mu/" in name}
            gradients = {name: leaf / (1 - 0.9) for name, leaf in moments.items()}
    return losses, gradients, leaves(state.params)


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Names and float64 values."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {parameter_name(path): np.asarray(leaf, np.float64) for path, leaf in paths}


@functools.cache
def reference(kind: tuple[Any, ...]) -> tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The three steps on one device, all rows in one pass."""
    config = make_config({})
    config.model.update(num_layers=kind[0], num_experts=kind[1], expert_capacity=kind[2])
    config.train.microbatch_rows = 0
    return steps(config, one_device())


def measure(case: dict[str, Any]) -> Errors:
    """Runs a case and its reference."""
    config = make_config(case)
    num_devices = math.prod(config.mesh[axis] for axis in AXES)
    mesh = make_mesh(config.mesh, devices=jax.devices()[:num_devices])
    losses, gradients, parameters = steps(config, mesh)
    expected = reference(kind_of(config))
    assert losses[-1] != losses[0]
    differences = distances(gradients, expected[1])
    return Errors(
        loss=max(abs(loss - right) / right for loss, right in zip(losses, expected[0], strict=True)),
        gradient=max(differences.values()),
        parameter=max(distances(parameters, expected[2]).values()),
        worst=max(differences, key=lambda name: differences[name]),
    )


def distances(values: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The norm of the difference over the norm, for each parameter."""
    assert values.keys() == expected.keys()
    return {
        name: float(np.linalg.norm(values[name] - expected[name]) / np.linalg.norm(expected[name])) for name in values
    }
