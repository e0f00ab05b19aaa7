"""Opening a finished or interrupted run, or an imported model, for the commands that use one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath
from jax.sharding import Mesh

from parallel import check_platform, make_mesh, start

from .checkpoint import Checkpoints
from .compose import preflight
from .runtime import set_up
from .state import TrainState, abstract_state, restore_state
from .workdir import check_restorable


def restore_run(config: Any, workdir: epath.Path, mesh: Mesh) -> TrainState:
    """The newest checkpoint of a run, on a mesh of the caller's choice.

    Raises:
        ValueError: there is no run or no checkpoint, or the config does not belong to it.
    """
    check_restorable(workdir, config)
    with newest(workdir) as (checkpoints, step):
        return restore_state(checkpoints, step, abstract_state(config, mesh))


def read_params(config: Any, workdir: epath.Path, mesh: Mesh) -> tuple[Any, int]:
    """The parameters of the newest checkpoint alone, on a mesh of the caller's choice, and its step.

    Raises:
        ValueError: as `restore_run`.
    """
    check_restorable(workdir, config)
    with newest(workdir) as (checkpoints, step):
        return checkpoints.restore(step, params=abstract_state(config, mesh).params)["params"], step


@contextmanager
def newest(workdir: epath.Path) -> Iterator[tuple[Checkpoints, int]]:
    """The checkpoints of a run, to read, and the newest one's step.

    Raises:
        ValueError: there is none.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step = checkpoints.latest_step()
        if step is None:
            raise ValueError(f"--workdir={workdir} has no checkpoint yet")
        yield checkpoints, step
    finally:
        checkpoints.close()


def restore_params(config: Any, workdir: epath.Path) -> tuple[Any, Mesh, int]:
    """Parameters of the newest checkpoint on the config's mesh, the mesh, and the step.

    Raises:
        ValueError: as `restore_run`, or the mesh does not fit the devices at hand.
    """
    set_up(config.compile_cache)
    start(config.distributed)
    check_platform(config.platform)
    mesh = make_mesh(config.mesh)
    preflight(config, mesh)
    params, step = read_params(config, workdir, mesh)
    return params, mesh, step
