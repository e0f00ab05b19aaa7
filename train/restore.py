"""Opening a finished or interrupted run, for the commands that use one."""

from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from data.command_line import load_config
from parallel import check_platform, make_mesh

from .checkpoint import Checkpoints
from .compose import preflight
from .state import TrainState, abstract_state
from .workdir import config_difference


def restore_state(config: Any, workdir: epath.Path, mesh: Mesh) -> TrainState:
    """The newest checkpoint of a run, on a mesh of the caller's choice.

    Raises:
        ValueError: there is no run or no checkpoint, or the config does not belong to it.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(f"--workdir={workdir} holds no run (no config.json)")
    fixed, _ = config_difference(load_config(path), config)
    shape = {
        key: pair for key, pair in fixed.items() if key.startswith(("model.", "optimizer.")) or key == "data.vocab_size"
    }
    for key, (old, new) in shape.items():
        raise ValueError(f"--workdir={workdir} was trained with config.{key}={old!r}, not {new!r}")
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step = checkpoints.latest_step()
        if step is None:
            raise ValueError(f"--workdir={workdir} has no checkpoint yet")
        return checkpoints.restore(step, abstract_state(config, mesh))
    finally:
        checkpoints.close()


def restore_params(config: Any, workdir: epath.Path) -> tuple[Any, Mesh, int]:
    """Parameters of the newest checkpoint on the config's mesh, the mesh, and the step."""
    check_platform(config.platform)
    mesh = make_mesh(config.mesh)
    preflight(config, mesh)
    state = restore_state(config, workdir, mesh)
    return state.params, mesh, int(jax.device_get(state.step))
