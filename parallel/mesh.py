"""The device mesh: six axes that always exist, with size 1 where unused, so that there is no single-device branch."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

# From the outermost, which may cross slower links, to the innermost, whose devices talk most.
AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")
# Of the oldest GPUs that JAX still has fused attention for (NVIDIA's Ampere).
LEAST_CAPABILITY = 8.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1, "the devices that are left".

    Attributes:
        stage: pipeline stages.
        data: replicas of the parameters.
        fsdp: shards of parameters, gradients and optimizer state.
        expert: shards of the experts.
        context: shards of the sequence.
        tensor: shards of heads, mlp and vocabulary.
        num_slices: groups of devices that only a slower network joins: slices of TPUs, or hosts of GPUs.
        slice_axes: axes that may cross between slices, joined by "+"; the first takes as many as divide it.
        allow_idle: accept a mesh smaller than the devices at hand.
    """

    stage: int = 1
    data: int = -1
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1
    num_slices: int = 1
    slice_axes: str = "stage+data+fsdp"
    allow_idle: bool = False


def axis_sizes(config: MeshConfig, num_devices: int) -> dict[str, int]:
    """Resolves -1 and checks the sizes against the number of devices.

    Raises:
        ValueError: the sizes and the devices do not match; it names the keys, both numbers and a legal choice.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    free = [axis for axis in AXES if sizes[axis] == -1]
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            raise ValueError(f"config.mesh.{axis}={size} must be at least 1, or -1 for the devices that are left")
    if len(free) > 1:
        raise ValueError(f"config.mesh.{free[0]} and config.mesh.{free[1]} are both -1; only one axis may be")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    named = ", ".join(f"config.mesh.{axis}={size}" for axis, size in sizes.items() if size > 1) or "config.mesh.*=1"
    if free:
        if num_devices % fixed:
            raise ValueError(
                f"{named} needs a multiple of {fixed} devices for config.mesh.{free[0]}=-1, but there are "
                f"{num_devices}; choose sizes whose product divides {num_devices}"
            )
        sizes[free[0]] = num_devices // fixed
    elif fixed > num_devices:
        raise ValueError(
            f"{named} needs {fixed} devices, but there are {num_devices}; "
            f"choose sizes whose product is {num_devices}, or set one of them to -1"
        )
    elif fixed < num_devices and not config.allow_idle:
        raise ValueError(
            f"{named} leaves {num_devices - fixed} of {num_devices} devices idle; choose sizes whose product is "
            f"{num_devices}, set one of them to -1, or say config.mesh.allow_idle=true"
        )
    return sizes


def make_mesh(config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges the devices in a mesh of the six axes.

    Args:
        config: sizes of the axes; a ConfigDict with the same keys will do; None puts all devices on "data".
        devices: defaults to all of them; within a slice their order follows the topology.

    Returns:
        A mesh whose axes are all Auto: the compiler propagates shardings from the constraints.

    Raises:
        ValueError: see `axis_sizes`; or the slices are not those at hand, or no axis can cross them.

    Example:
        mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    """
    if config is None:
        config = MeshConfig()
    elif not isinstance(config, MeshConfig):
        names = [field.name for field in dataclasses.fields(MeshConfig)]
        config = MeshConfig(**{name: config[name] for name in names})
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(config, len(devices))
    slices = group_slices(devices, config.num_slices)
    across = slice_sizes(config, sizes)
    within = tuple(sizes[axis] // across[axis] for axis in AXES)
    # Axis by axis, first across slices and then within: an axis of 8 over 2 slices has 4 neighbours in each.
    blocks = np.array(
        [
            mesh_utils.create_device_mesh(within, part[: math.prod(within)], allow_split_physical_axes=True)
            for part in slices
        ]
    )
    blocks = blocks.reshape(*across.values(), *within)
    order = [place for i in range(len(AXES)) for place in (i, len(AXES) + i)]
    array = blocks.transpose(order).reshape([sizes[axis] for axis in AXES])
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(sizes: Mapping[str, int] | None = None) -> AbstractMesh:
    """A mesh of sizes alone, for what needs no devices: shapes of shards, and whether they are whole.

    Args:
        sizes: of the axes; those left out are 1.
    """
    shape = tuple((sizes or {}).get(axis, 1) for axis in AXES)
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def group_slices(devices: Sequence[Any], num_slices: int) -> list[list[Any]]:
    """The devices of each slice.

    TPUs know their slice. Elsewhere a slice is a run of consecutive devices, so on GPUs a host or several, and on
    simulated devices whatever was asked for.

    Raises:
        ValueError: the devices do not make that many slices of equal size.
    """
    key = "config.mesh.num_slices"
    if num_slices < 1 or len(devices) % num_slices:
        raise ValueError(f"{key}={num_slices} does not divide the {len(devices)} devices; use a divisor of that")
    if devices[0].platform != "tpu":
        size = len(devices) // num_slices
        return [list(devices[i : i + size]) for i in range(0, len(devices), size)]
    found: dict[int, list[Any]] = {}
    for device in devices:
        found.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if len(found) != num_slices:
        raise ValueError(f"{key}={num_slices}, but the devices are in {len(found)} slices; use {key}={len(found)}")
    return [found[index] for index in sorted(found)]


def slice_sizes(config: MeshConfig, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many parts of each axis lie in different slices.

    Raises:
        ValueError: an unknown axis, or the axes cannot take all slices.
    """
    names = [name.strip() for name in config.slice_axes.split("+")]
    unknown = [name for name in names if name not in AXES]
    if unknown:
        raise ValueError(f"config.mesh.slice_axes: {unknown[0]!r} is no mesh axis; use some of {AXES}, joined by '+'")
    left, across = config.num_slices, {axis: 1 for axis in AXES}  # noqa: C420 - the type of AXES would be a literal's
    for name in names:
        across[name] = math.gcd(left, sizes[name])
        left //= across[name]
    if left > 1:
        given = ", ".join(f"config.mesh.{name}={sizes[name]}" for name in names)
        raise ValueError(
            f"config.mesh.num_slices={config.num_slices} cannot be divided over config.mesh.slice_axes="
            f"{config.slice_axes!r} ({given}); make one of them a multiple of {config.num_slices}"
        )
    return across


def platform_of(mesh: Any) -> str:
    """The platform of a mesh's devices: "cpu", "gpu" or "tpu"; of an abstract mesh too."""
    platform = mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else mesh.abstract_device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def compute_capability(mesh: Any) -> float:
    """NVIDIA's figure of what kernels for a mesh of GPUs may count on, such as 9.0; 0.0 of another maker's GPUs.

    JAX asks the first GPU of this process for it, whatever it compiles for, and where there is none it counts on the
    least: so it is the lesser of that and of the mesh's own, where its devices tell.

    Args:
        mesh: the mesh; an abstract one will do.
    """
    here = _capability(jax.local_devices()[0]) if jax.default_backend() == "gpu" else LEAST_CAPABILITY
    return min(here, _capability(mesh.devices.flat[0])) if isinstance(mesh, Mesh) else here


def _capability(device: Any) -> float:
    try:
        return float(getattr(device, "compute_capability", "inf"))
    except ValueError:  # AMD's have a name there
        return 0.0


def has_accelerator() -> bool:
    """Whether this machine shows a GPU or TPU, whatever JAX makes of it."""
    return any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "accel*", "vfio/[0-9]*"))


def check_platform(platform: str) -> None:
    """Makes JAX run on the platform that the config names, and on no other.

    Args:
        platform: "cpu", "gpu", "tpu", or "auto" for what JAX finds.

    Raises:
        ValueError: the platform is unknown, or is not the one at hand; JAX alone would fall back to the CPU.
    """
    if platform not in ("auto", "cpu", "gpu", "tpu"):
        raise ValueError(f"config.platform={platform!r} is not known; use 'auto', 'cpu', 'gpu' or 'tpu'")
    if platform == "auto":
        return
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise ValueError(f"config.platform={platform!r}: JAX found no devices ({error})") from error
    if found != platform:
        raise ValueError(
            f"config.platform={platform!r}, but JAX found only {found!r} devices. Another process may hold the "
            f"accelerator, or the extra palmette[{'tpu' if platform == 'tpu' else 'cuda'}] is not installed; "
            f"config.platform={found!r} runs on what is here"
        )
