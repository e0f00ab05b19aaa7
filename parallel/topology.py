"""The devices of machines that need not be here, for compilation ahead of time."""

import contextlib
import importlib.util
import os
from typing import Any

import jax

from .machine import Machine
from .simulated import threads

# NVIDIA's figures of a GPU's cores, by which XLA chooses its kernels: compute capability 8.0 and 9.0 in the CUDA C++
# programming guide, "Technical Specifications per Compute Capability".
_CORES = {
    "a100": {"major": 8, "cores": 108, "fpus": 64, "shared": 167936, "block": 166912, "l2": 40 << 20, "ghz": 1.41},
    "h100": {"major": 9, "cores": 132, "fpus": 128, "shared": 233472, "block": 232448, "l2": 50 << 20, "ghz": 1.98},
}
_CORES |= dict.fromkeys(("a100-40gb", "a100-pcie", "a100-pcie-40gb"), _CORES["a100"])
_CORES |= {"h200": _CORES["h100"], "h100-nvl": _CORES["h100"], "h100-pcie": _CORES["h100"] | {"cores": 114}}


def topology_devices(machine: Machine) -> list[Any]:
    """Devices that programs can be compiled for, and that arrays cannot be put on.

    For TPUs and GPUs nothing of them need be here but the compiler, which is a package; CPU devices are this process's.

    Raises:
        ValueError: the compiler is not installed, or this process has too few CPU devices; it says what to do.

    Example:
        mesh = make_mesh(config.mesh, devices=topology_devices(parse_machine("v5p:4x4x4")))
    """
    return {"tpu": _tpu_devices, "gpu": _gpu_devices, "cpu": _cpu_devices}[machine.chip.platform](machine)


def _tpu_devices(machine: Machine) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology={machine.name}: the compiler for TPUs is not installed; run: pip install 'palmette[tpu]'"
        )
    # There is no metadata server to ask; and as nothing is run, processes need not take turns.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": machine.num_slices} if machine.num_slices > 1 else {}
    if machine.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # its two cores as one device, as JAX shows them on a machine
    if machine.shape == (1, 1):
        options["chips_per_host_bounds"] = [1, 1, 1]
    sizes = "x".join(map(str, machine.shape))
    topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{machine.chip.name}:{sizes}", **options)
    return list(topology.devices)


def _gpu_devices(machine: Machine) -> list[Any]:
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise ValueError(
            f"--topology={machine.name}: the compiler for GPUs is not installed; run: pip install 'palmette[cuda]'"
        )
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name=machine.chip.name,
        target_config=target_config(machine),
        topology=f"1x{machine.num_slices}x{machine.devices_per_slice}",
    )
    return list(topology.devices)


def target_config(machine: Machine) -> str:
    """A GPU as XLA wants it described: a GpuTargetConfigProto, as text."""
    cores = _CORES[machine.chip.name]
    return f"""
        platform_name: "CUDA"
        device_description_str: "{machine.chip.kind}"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        gpu_device_info {{
          cuda_compute_capability {{ major: {cores["major"]} }}
          device_memory_size: {machine.chip.usable_bytes}
          memory_bandwidth: {int(machine.chip.hbm_bandwidth)}
          clock_rate_ghz: {cores["ghz"]}
          core_count: {cores["cores"]}
          fpus_per_core: {cores["fpus"]}
          l2_cache_size: {cores["l2"]}
          shared_memory_per_core: {cores["shared"]}
          shared_memory_per_block: 49152
          shared_memory_per_block_optin: {cores["block"]}
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          threads_per_warp: 32
          threads_per_block_limit: 1024
          threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
        }}
    """


def _cpu_devices(machine: Machine) -> list[Any]:
    if "device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("NPROC", threads(machine.num_devices))
        with contextlib.suppress(RuntimeError):  # JAX has made its devices already
            jax.config.update("jax_num_cpu_devices", machine.num_devices)
    devices = jax.devices("cpu")
    if len(devices) < machine.num_devices:
        raise ValueError(
            f"--topology={machine.name}: this process has {len(devices)} CPU devices; start it with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={machine.num_devices}"
        )
    return devices[: machine.num_devices]
