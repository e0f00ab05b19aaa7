"""What a run holds, as JSON: `python -m train.inspect --workdir runs/tiny`."""

import hashlib
import json
import sys
from typing import Any

import jax
from etils import epath

from data import make_ramp
from data.command_line import read_command_line, run_main
from parallel import MeshConfig, check_platform, make_mesh, to_host

from .best import best_step
from .optimizer import parameter_name
from .parameters_of_run import newest
from .restore import read_params, restore_run
from .state import model_params
from .workdir import IMPORTED


def tree_sha256(tree: Any) -> str:
    """Hash of the names, dtypes, shapes and bytes of all leaves; it does not depend on how they are sharded."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(to_host(tree)):
        digest.update(f"{parameter_name(path)} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def describe(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Step, tree, hashes, data position and config of the newest checkpoint, read onto one device."""
    check_platform("cpu")  # the accelerator may be busy with the run itself
    mesh = make_mesh(MeshConfig(data=1, allow_idle=True))

    def tree(part: Any) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(part)
        return {parameter_name(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for path, leaf in leaves}

    training: dict[str, Any] = {}
    if (workdir / IMPORTED).exists():  # there are parameters alone
        params, step = read_params(config, workdir, mesh)
    else:
        state = restore_run(config, workdir, mesh)
        params, step = model_params(config, state), int(state.step)
        if config.train.parameters != "all":
            training["trained_params"] = tree(state.params)
        if config.train.best:
            with newest(workdir) as (checkpoints, latest):
                training["best_step"] = best_step(config, checkpoints, latest)
        training |= {"opt_state_sha256": tree_sha256(state.opt_state), "opt_state": tree(state.opt_state)}

    ramp = make_ramp(config.data.batch_ramp, config.data.batch_size)
    return {
        "step": step,
        "data_position": {"seed": config.seed, "next_example": ramp.rows_before(step)},
        "params_sha256": tree_sha256(params),
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "params": tree(params),
        **training,
        "config": config.to_dict(),
    }


def main(argv: list[str]) -> None:
    """The command."""
    options = {"workdir": (None, "the run's directory")}
    arguments = read_command_line(argv, "train.inspect", __doc__ or "", options=options, config_from_workdir=True)
    json.dump(describe(arguments.config, arguments.flags["workdir"]), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    run_main(main)
