"""The parameters of a run or of an imported model: whole, whatever part of them was trained and is in its checkpoints.

A run that trains a part, or learns from a teacher, reads the rest again where it first came from. WORKDIR/fixed.json
says which checkpoints that was, so that what is read is known to be the same.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.sharding import Mesh

from data.command_line import load_config
from parallel import to_host

from .best import best_step
from .checkpoint import Checkpoints
from .distill import TEACHER, teacher_path, without_teacher
from .state import TrainState, abstract_trained, init_base, model_params, parameter_shapes
from .trainable import divide, trained_part
from .workdir import IMPORTED, replace_file

FIXED = "fixed.json"


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


def own_config(workdir: epath.Path, like: Any) -> Any:
    """The config of a run or of an imported model, for the mesh and the compute dtype of another config.

    Its model is read without the teacher that it may have had.
    """
    config: Any = without_teacher(load_config(workdir / "config.json"))
    config.mesh, config.model.dtype = like.mesh, like.model.dtype.partition(",")[0]
    if (workdir / IMPORTED).exists():  # no training led here
        config.init_from, config.train.parameters, config.train.best = "", "all", ""
    return config


def read_model(config: Any, workdir: epath.Path, mesh: Mesh, *, step: int | None = None) -> tuple[Any, int]:
    """All parameters of a run's model, and the step they are of.

    Args:
        config: of `own_config`.
        workdir: the run's.
        mesh: where the parameters are to be.
        step: of the checkpoint; None is the best one where the run keeps it, or else the newest.

    Raises:
        ValueError: there is no such checkpoint, or what it builds on is no longer what it was.
    """
    with newest(workdir) as (checkpoints, latest):
        if step is None:
            step = best_step(config, checkpoints, latest)
        if not checkpoints.has(step):
            raise ValueError(f"{workdir} no longer has its checkpoint of step {step}, which a run started from")
        params = checkpoints.restore(step, params=abstract_trained(config, mesh))["params"]
    fixed = read_fixed(config, workdir, mesh)
    return model_params(config, TrainState(jnp.asarray(step), params, (), fixed)), step


def read_source(config: Any, mesh: Mesh, *, step: int | None = None) -> tuple[Any, int]:
    """As `read_model`, of what `config.init_from` names."""
    path = epath.Path(config.init_from).expanduser()
    if not (path / "config.json").exists():
        raise ValueError(f"config.init_from={config.init_from!r} is not there, whose parameters this run builds on")
    return read_model(own_config(path, config), path, mesh, step=step)


def read_teacher(config: Any, mesh: Mesh, *, step: int | None = None) -> tuple[Any, int]:
    """As `read_model`, of the teacher."""
    path = teacher_path(config)
    assert path is not None
    return read_model(own_config(path, config), path, mesh, step=step)


def read_fixed(config: Any, workdir: epath.Path, mesh: Mesh) -> dict[str, Any]:
    """What `TrainState.fixed` of a run held from its first step on.

    Raises:
        ValueError: a source is not there any more, or not what it was.
    """
    noted = json.loads((workdir / FIXED).read_text()) if (workdir / FIXED).exists() else {}
    steps = {name: note["step"] for name, note in noted.items()}
    fixed = {}
    if trained_part(config).kind != "all":
        if config.init_from:
            params, _ = read_source(config, mesh, step=steps.get("base"))
            fixed["base"] = _of_own(config, divide(trained_part(config), params)[1])
        else:
            fixed["base"] = init_base(config, mesh)
    if teacher_path(config) is not None:
        fixed[TEACHER], _ = read_teacher(config, mesh, step=steps.get(TEACHER))
    for name, tree in fixed.items():
        if name in noted and checksum(tree) != noted[name]["checksum"]:
            where = config.train.objective if name == TEACHER else f"{config.init_from!r}, seed {config.seed}"
            raise ValueError(f"--workdir={workdir}: the {name} ({where}) has other parameters than when the run began")
    return fixed


def _of_own(config: Any, base: Any) -> Any:
    """Without what the source has more than the config's model, such as a pooler before a head that is replaced."""
    own: Any = parameter_shapes(config)
    flat: Any = flatten_dict(base, sep="/")
    return unflatten_dict({name: leaf for name, leaf in flat.items() if name in own}, sep="/")


def note_fixed(workdir: epath.Path, fixed: Any, steps: dict[str, int]) -> None:
    """Writes what `read_fixed` reads; all processes call this, the first one writes.

    Args:
        workdir: the run's.
        fixed: of its state.
        steps: of the checkpoints that the trees are of.
    """
    notes = {name: {"step": steps.get(name), "checksum": checksum(tree)} for name, tree in fixed.items()}
    if notes and jax.process_index() == 0:
        replace_file(workdir / FIXED, (json.dumps(notes, indent=2) + "\n").encode())


def checksum(tree: Any) -> int:
    """A number that follows from the bits of all leaves, float32, however they are sharded."""
    return int(to_host(_checksum(tree)))


@jax.jit
def _checksum(tree: Any) -> Array:
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        total = total * jnp.uint32(31) + jnp.sum(bits, dtype=jnp.uint32)
    return total
