"""Opening a finished or interrupted run, for the commands that use one."""

from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from parallel import check_platform, make_mesh, start

from .checkpoint import Checkpoints
from .compose import preflight
from .runtime import set_up
from .state import TrainState, abstract_state
from .workdir import check_restorable


def restore_state(config: Any, workdir: epath.Path, mesh: Mesh) -> TrainState:
    """The newest checkpoint of a run, on a mesh of the caller's choice.

    Raises:
        ValueError: there is no run or no checkpoint, or the config does not belong to it.
    """
    check_restorable(workdir, config)
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step = checkpoints.latest_step()
        if step is None:
            raise ValueError(f"--workdir={workdir} has no checkpoint yet")
        return checkpoints.restore(step, abstract_state(config, mesh))
    finally:
        checkpoints.close()


def restore_params(config: Any, workdir: epath.Path) -> tuple[Any, Mesh, int]:
    """Parameters of the newest checkpoint on the config's mesh, the mesh, and the step.

    Raises:
        ValueError: as `restore_state`, or the mesh does not fit the devices at hand.
    """
    set_up(config.compile_cache)
    start(config.distributed)
    check_platform(config.platform)
    mesh = make_mesh(config.mesh)
    preflight(config, mesh)
    state = restore_state(config, workdir, mesh)
    return state.params, mesh, int(jax.device_get(state.step))
