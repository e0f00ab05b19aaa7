"""Averages of the weights: what they are, and that all that uses a run's parameters uses them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.helpers import one_device
from train import evaluate, fit
from train.averaging import averaged, with_ema
from train.restore import read_params, restore_run
from train.state import model_params


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


def test_a_run_without_an_average_cannot_go_on_with_one(config: ConfigDict, tmp_path: Path):
    config.mesh.update(data=1, allow_idle=True)
    config.train.update(steps=3)
    fit(config, tmp_path / "run")
    config.optimizer.ema = 0.9
    with pytest.raises(ValueError, match=r"other values of\n  config.optimizer.ema: 0.0 there, 0.9 now"):
        fit(config, tmp_path / "run")
