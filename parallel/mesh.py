"""The device mesh: six axes that always exist, with size 1 where unused, so that there is no single-device branch."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

# From the outermost, which may cross slower links, to the innermost, whose devices talk most.
AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")


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
        allow_idle: accept a mesh smaller than the devices at hand.
    """

    stage: int = 1
    data: int = -1
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1
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
        devices: defaults to all of them; on TPU their order follows the topology.

    Returns:
        A mesh whose axes are all Auto: the compiler propagates shardings from the constraints.

    Raises:
        ValueError: see `axis_sizes`.

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
    shape = tuple(sizes[axis] for axis in AXES)
    return jax.make_mesh(shape, AXES, devices=devices[: math.prod(shape)], axis_types=(AxisType.Auto,) * len(AXES))


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
