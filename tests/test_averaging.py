"""Averages of the weights: what they are, and that all that uses a run's parameters uses them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from ml_collections import ConfigDict

from parallel import shard_batch
from tests.helpers import leaf_errors, one_device, uneven_batch
from train import TrainState, evaluate, fit, init_state, make_train_step
from train.averaging import EmaState, averaged, with_ema
from train.checkpoint import Checkpoints
from train.initial import adopt, first_state
from train.restore import read_params, restore_run
from train.state import abstract_state, model_params, num_bytes, restore_state, save_state
from train.workdir import config_difference


def test_the_average_forgets_the_initial_weights_first():
    """Parameters 0, 1, 2, 3, 4; decays 1/10, 2/11, 3/12 and then 0.26 at most."""
    optimizer = with_ema(optax.sgd(1.0), 0.26)
    params, expected = {"w": jnp.zeros(2)}, 0.0
    state = optimizer.init(params)
    for t, kept in enumerate([1 / 10, 2 / 11, 3 / 12, 0.26]):
        updates, state = optimizer.update({"w": -jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
        expected = kept * expected + (1 - kept) * (t + 1)
        np.testing.assert_allclose(averaged(params, state)["w"], [expected] * 2, rtol=1e-6)
    np.testing.assert_array_equal(params["w"], [4.0, 4.0])


AVERAGING = {"ema": {"ema": 0.9}, "schedule_free": {"name": "schedule_free", "schedule": "constant"}}


@pytest.mark.parametrize("case", AVERAGING)
def test_a_run_evaluates_and_hands_on_the_average(config: ConfigDict, tmp_path: Path, case: str):
    config.optimizer.update(AVERAGING[case])
    config.mesh.update(data=1, allow_idle=True)
    config.train.update(steps=6, checkpoint_every=3)
    workdir, mesh = epath.Path(tmp_path) / "run", one_device()
    loss = fit(config, workdir).validation["loss"]
    state = restore_run(config, workdir, mesh)
    used, _ = read_params(config, workdir, mesh)
    for ours, expected in zip(jax.tree.leaves(used), jax.tree.leaves(model_params(config, state)), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert evaluate(config, used, mesh)["loss"] == pytest.approx(loss, rel=1e-6)
    assert abs(evaluate(config, state.params, mesh)["loss"] - loss) > 1e-4


def test_an_average_of_a_part_of_the_parameters_goes_back_to_the_whole(config: ConfigDict, tmp_path: Path):
    """Adapters, of which the best checkpoint is used: not the last average."""
    config.optimizer.ema = 0.9
    config.mesh.update(data=1, allow_idle=True)
    config.train.update(steps=4, eval_every=2, best="loss,mode=max", parameters="lora")
    loss = fit(config, tmp_path / "run").validation["loss"]
    used, step = read_params(config, epath.Path(tmp_path) / "run", one_device())
    assert step == 2
    assert evaluate(config, used, one_device())["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("case", AVERAGING)
def test_an_average_starts_from_the_weights_that_a_run_starts_from(config: ConfigDict, tmp_path: Path, case: str):
    """Not from the random ones that were there before they were read; the first step moves next to nothing."""
    mesh, source = one_device(), epath.Path(tmp_path) / "source"
    config.seed = 5
    theirs = init_state(config, mesh).params
    checkpoints = Checkpoints(source)
    checkpoints.save(0, params=theirs)
    checkpoints.close()
    (source / "config.json").write_text(json.dumps(config.to_dict()))
    config.seed, config.init_from = 0, str(source)
    config.optimizer.update({**AVERAGING[case], "learning_rate": 1e-9})
    config.optimizer.warmup_steps = 0
    config = adopt(config)
    state = first_state(config, mesh)
    after, _ = make_train_step(config, mesh)(jax.tree.map(jnp.copy, state), shard_batch(uneven_batch(config), mesh))
    for one in (state, after):
        assert max(leaf_errors(model_params(config, one), theirs).values()) < 1e-5


def test_a_checkpoint_has_an_average_once(config: ConfigDict):
    """Parameters, and with their average those that are trained, too; and a count."""
    without = abstract_state(config, one_device())
    config.optimizer.ema = 0.9
    params = sum(4 * leaf.size for leaf in jax.tree.leaves(without.params))
    assert num_bytes(abstract_state(config, one_device())) == num_bytes(without) + params + 4


def test_the_average_of_what_is_beside_the_model_is_saved_too(tmp_path: Path):
    trees = [{"embedding": jnp.full(3, n), "distill": {"projection": jnp.full(2, n + 1)}} for n in (1.0, 3.0)]
    state = TrainState(jnp.asarray(7), trees[0], EmaState(jnp.asarray(7), trees[1], ()))
    checkpoints = Checkpoints(epath.Path(tmp_path))
    save_state(checkpoints, 7, state)
    checkpoints.wait()
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    read = restore_state(checkpoints, 7, jax.tree.map(place, state))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, read, state)


def test_the_share_of_the_average_in_what_is_trained_cannot_change(config: ConfigDict):
    """Schedule-free keeps z and y = (1 - b1) z + b1 x, and no b1 but the first finds x again."""
    old, new = config, config.copy_and_resolve_references()
    for name, other, fixed in (
        ("schedule_free", "schedule_free,b1=0.8", ["optimizer.name"]),
        ("schedule_free,b1=0.8", "schedule_free, eps=1e-6, b1 = 0.80", []),
        ("schedule_free,b2=0.99", "schedule_free,b1=0.9", []),
        ("adamw,b1=0.8", "adamw,b1=0.9", []),
        ("adamw,b1=0.9", "schedule_free,b1=0.9", ["optimizer.name"]),
    ):
        old.optimizer.name, new.optimizer.name = name, other
        assert list(config_difference(old, new)[0]) == fixed


def test_a_run_without_an_average_cannot_go_on_with_one(config: ConfigDict, tmp_path: Path):
    config.mesh.update(data=1, allow_idle=True)
    config.train.update(steps=3)
    fit(config, tmp_path / "run")
    config.optimizer.ema = 0.9
    with pytest.raises(ValueError, match=r"other values of\n  config.optimizer.ema: 0.0 there, 0.9 now"):
        fit(config, tmp_path / "run")
