"""Where this process stands among others: by config, by `parallel.launch`, or by what JAX knows of the cluster."""

import dataclasses
import os
import re

# JAX's detection of clusters has no public form yet.
from jax._src.clusters import ClusterEnv

# What `parallel.launch` tells its children; the fields of the config win.
COORDINATOR, NUM_PROCESSES, PROCESS_ID = "PALMETTE_COORDINATOR", "PALMETTE_NUM_PROCESSES", "PALMETTE_PROCESS_ID"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How this process finds the others.

    Attributes:
        coordinator: host of process 0; "" is what the launcher or the cluster says, or else a single process.
        port: of the coordination service on that host; 0 is JAX's choice.
        num_processes: of the run; 0 is what the launcher or the cluster says.
        process_id: of this process, from 0; -1 is what the launcher or the cluster says.
        num_devices: devices that all processes together must see; 0 is not checked.
        timeout_s: seconds for all to start, for a barrier, and until a silent process is taken for dead.
    """

    coordinator: str = ""
    port: int = 8476
    num_processes: int = 0
    process_id: int = -1
    num_devices: int = 0
    timeout_s: int = 180


@dataclasses.dataclass(frozen=True)
class Place:
    """Where this process stands among the others."""

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None = None


def find_place(config: DistributedConfig) -> Place | None:
    """The place of this process by config, launcher or cluster; None without any.

    Raises:
        ValueError: some of it is known and some is not, or it is impossible.
    """
    if config.timeout_s < 1 or not 0 <= config.port < 65536:
        raise ValueError(
            f"config.distributed: timeout_s={config.timeout_s} must be at least 1, and port={config.port} from 0 to "
            "65535"
        )
    address = os.environ.get(COORDINATOR, "")
    if config.coordinator:
        address = config.coordinator if ":" in config.coordinator else f"{config.coordinator}:{config.port}"
    count = config.num_processes or int(os.environ.get(NUM_PROCESSES, 0)) or None
    index = config.process_id if config.process_id >= 0 else int(os.environ.get(PROCESS_ID, -1))
    index = None if index < 0 else index
    devices = None
    if count == 1:
        return None
    if not address or count is None or index is None:
        if config.port:
            os.environ.setdefault("JAX_COORDINATOR_PORT", str(config.port))
        found = ClusterEnv.auto_detect_unset_distributed_params(
            address or None, count, index, None, None, config.timeout_s
        )
        address, count, index, devices = found
        if count == 1 or (address, count, index) == (None, None, None):
            return None
        devices = None if _one_process_a_node() else devices
    if not address or count is None or index is None or not 0 <= index < count:
        raise ValueError(
            f"config.distributed: coordinator={address or ''!r}, num_processes={count}, process_id={index} do not make "
            "a place in a run; say all three (process_id from 0 to num_processes - 1), or none and start under Slurm, "
            "Open MPI, GKE, on a Cloud TPU, or with python -m parallel.launch"
        )
    return Place(address, count, index, list(devices) if devices else None)


def _one_process_a_node() -> bool:
    """Whether Slurm or Open MPI started one process on each node; JAX would then show it one GPU of the node's."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE") or ""
    return bool(re.fullmatch(r"1(\(x\d+\))?", tasks)) or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
