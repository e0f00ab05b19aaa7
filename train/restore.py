"""Opening a finished or interrupted run, or an imported model, for the commands that use one."""

from typing import Any

from etils import epath
from jax.sharding import Mesh

from parallel import check_platform, make_mesh, start

from .compose import preflight
from .distill import without_teacher
from .parameters_of_run import newest, own_config, read_fixed, read_model
from .runtime import set_up
from .state import TrainState, abstract_state, restore_state
from .workdir import check_restorable


def restore_run(config: Any, workdir: epath.Path, mesh: Mesh) -> TrainState:
    """The newest checkpoint of a run, on a mesh of the caller's choice; without a teacher.

    Raises:
        ValueError: there is no run or no checkpoint, or the config does not belong to it.
    """
    check_restorable(workdir, config)
    own = own_config(workdir, config)
    with newest(workdir) as (checkpoints, step):
        own.train.objective = config.train.objective  # the projection to a teacher's width is in the state
        state = restore_state(checkpoints, step, abstract_state(own, mesh))
    return state.replace(fixed=read_fixed(without_teacher(own), workdir, mesh))


def read_params(config: Any, workdir: epath.Path, mesh: Mesh) -> tuple[Any, int]:
    """The parameters of a run's model alone, whole, on a mesh of the caller's choice, and the step they are of.

    They are of the best checkpoint where the run keeps it, and otherwise of the newest.

    Raises:
        ValueError: as `restore_run`.
    """
    check_restorable(workdir, config)
    own = own_config(workdir, config)
    if own.init_from:
        own.init_from = config.init_from  # which may have moved
    return read_model(own, workdir, mesh)


def restore_params(config: Any, workdir: epath.Path) -> tuple[Any, Mesh, int]:
    """Parameters as `read_params` reads them, on the config's mesh, the mesh, and the step.

    Raises:
        ValueError: as `restore_run`, or the mesh does not fit the devices at hand.
    """
    set_up(config.compile_cache)
    start(config.distributed)
    check_platform(config.platform)
    mesh = make_mesh(config.mesh)
    preflight(without_teacher(config), mesh)
    params, step = read_params(config, workdir, mesh)
    return params, mesh, step
