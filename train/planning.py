"""Plans: the ranked candidates of a config on a machine, from the command line or at a run's start."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from parallel import AXES, Chip, Machine, chip_of, parse_machine

from .candidates import HEADROOM, Candidate, Search, attentions_of
from .compose import model_config
from .precision import check_products
from .workload import Workload, workload_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a planner found; all its figures are estimates, on paper or of a compiler.

    Attributes:
        machine: what the plan is for.
        workload: of the config.
        candidates: ranked; the first is the one to take, if it fits.
        num_meshes: that were legal.
    """

    machine: Machine
    workload: Workload
    candidates: tuple[Candidate, ...]
    num_meshes: int

    @property
    def best(self) -> Candidate:
        """The first."""
        return self.candidates[0]


def make_plan(
    config: Any, machine: Machine, *, mesh: Mapping[str, int] | None = None, headroom: float = HEADROOM
) -> Plan:
    """Ranks all layouts of a config on a machine, from shapes alone.

    Args:
        config: the whole config, as `train.initial.adopt` returns it; batch, length and model stay as they are.
        machine: as `parallel.parse_machine` reads it.
        mesh: the one mesh to look at, with all else as the config has it; None looks at all.
        headroom: of the usable memory, what an estimate may fill.

    Raises:
        ValueError: the config is wrong, or no mesh suits it.

    Example:
        make_plan(get_config(), parse_machine("v5p:4x4x4")).best.layout
    """
    check_products(model_config(config), machine.chip)
    workload = workload_of(config)
    search = Search(config, workload, machine, headroom=headroom)
    if mesh is None:
        found = search.candidates()
        return Plan(machine, workload, tuple(found), len(found))
    sizes = {axis: mesh.get(axis, 1) for axis in AXES}
    search.check(sizes, config.train.microbatch_rows, config.model.remat)
    own = search.own()
    return Plan(machine, workload, (search.score(search.layout(sizes, own), own),), 1)


def parse_mesh(text: str, num_devices: int) -> dict[str, int]:
    """The axes of "data=4,fsdp=16".

    Raises:
        ValueError: an unknown axis, no number, or another number of devices than there are.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        axis, _, size = part.partition("=")
        if axis not in AXES or not size.isdigit() or int(size) < 1:
            raise ValueError(f"--mesh={text}: {part!r} is not understood; write axes of {', '.join(AXES)} as fsdp=16")
        sizes[axis] = int(size)
    if math.prod(sizes.values()) != num_devices:
        raise ValueError(
            f"--mesh={text} has {math.prod(sizes.values())} devices, but the machine has {num_devices}; choose sizes "
            f"whose product is {num_devices}"
        )
    return sizes


def overrides(config: Any, candidate: Candidate, machine: Machine) -> dict[str, Any]:
    """The fields of the config that say a candidate, where they differ from what it has."""
    layout = candidate.layout
    said: dict[str, Any] = {"mesh.auto": False} | {f"mesh.{axis}": size for axis, size in layout.sizes.items()}
    said |= {"mesh.num_slices": machine.num_slices, "train.microbatch_rows": layout.microbatch_rows}
    said |= {"model.remat": layout.remat, "train.objective": candidate.objective}
    if layout.context > 1:
        said["mesh.context_attention"] = layout.context_attention
    if not layout.is_ring and layout.attention != attentions_of(config, machine)[0]:
        said["model.attention"] = layout.attention
    return {key: value for key, value in said.items() if _get(config, key) != value}


def _get(config: Any, key: str) -> Any:
    section, _, name = key.partition(".")
    return config[section][name]


def with_overrides(config: Any, candidate: Candidate, machine: Machine) -> Any:
    """A copy of the config that says a candidate."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(overrides(config, candidate, machine))
    return config


def machine_at_hand(num_slices: int, devices: Sequence[Any] | None = None) -> Machine:
    """The machine that this process runs on, with its other hosts.

    Args:
        num_slices: of simulated CPUs; of others the devices say it.
        devices: of all processes; those that JAX shows.

    Raises:
        ValueError: its chip is in no table.
    """
    devices = jax.devices() if devices is None else devices
    if devices[0].platform == "cpu":
        return parse_machine(f"cpu:{len(devices)}", num_slices)
    chip = chip_of(devices[0].device_kind)
    if chip is None:
        raise ValueError(
            f"config.mesh.auto=True: {devices[0].device_kind!r} is no known chip; set the axes of config.mesh by hand"
        )
    if chip.platform == "gpu":
        hosts = _gpu_hosts(devices, chip)
        # Of one GPU, as any number of them is legal here; its memory is what the environment leaves JAX.
        return Machine(parse_machine(f"gpu:{chip.name}:1").chip, (len(devices) // hosts,), hosts)
    slices = {getattr(device, "slice_index", 0) for device in devices}
    first = [device.coords for device in devices if getattr(device, "slice_index", 0) == min(slices)]
    # A part of a slice need not begin at its corner.
    shape = tuple(1 + max(at) - min(at) for at in [*zip(*first, strict=True)][: chip.torus_dims])
    return Machine(chip, shape, len(slices))


def _gpu_hosts(devices: Sequence[Any], chip: Chip) -> int:
    """Groups of GPUs that NVLink joins. How many processes there are says nothing, as each may have a single GPU."""
    told = {index for device in devices if (index := getattr(device, "slice_index", None)) is not None}
    hosts = len(told) or math.ceil(len(devices) / chip.devices_per_host)
    return hosts if len(devices) % hosts == 0 else 1


def with_plan(config: Any, log: Callable[[str], None], *, machine: Machine | None = None) -> Any:
    """The config with what a plan chooses, on paper, for a machine.

    Args:
        config: the whole config; without `config.mesh.auto` it is returned as it is.
        log: called with lines for people.
        machine: None is the one at hand.

    Raises:
        ValueError: nothing fits; it says what is largest.
    """
    if not config.mesh.auto:
        return config
    from .plan_changes import why_nothing_fits  # these are for people, and only here
    from .plan_text import describe

    machine = machine or machine_at_hand(config.mesh.num_slices)
    plan = make_plan(config, machine)
    if not plan.best.fits:
        raise ValueError(f"config.mesh.auto=True: {why_nothing_fits(config, plan)}")
    changed = overrides(config, plan.best, machine)
    keys = ", ".join(f"config.{key}={value}" for key, value in changed.items()) or "nothing to change"
    log(f"Planned for {machine.name}, estimated, not measured: {describe(plan.best)}: {keys}")
    return with_overrides(config, plan.best, machine)
