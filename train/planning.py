"""Plans: the ranked candidates of a config on a machine, from the command line or at a run's start."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from parallel import AXES, Machine, chip_of, parse_machine

from .candidates import Candidate, Search
from .workload import Workload, workload_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a planner found; all its figures are estimates.

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


def make_plan(config: Any, machine: Machine, *, mesh: Mapping[str, int] | None = None) -> Plan:
    """Ranks all layouts of a config on a machine, from shapes alone.

    Args:
        config: the whole config; batch, length and model stay as they are.
        machine: as `parallel.parse_machine` reads it.
        mesh: the one mesh to look at, with the config's own microbatch and remat; None looks at all.

    Raises:
        ValueError: the config is wrong, or no mesh suits it.

    Example:
        make_plan(get_config(), parse_machine("v5p:4x4x4")).best.layout
    """
    workload = workload_of(config)
    search = Search(config, workload, machine)
    if mesh is None:
        found = search.candidates()
        return Plan(machine, workload, tuple(found), len(found))
    sizes = {axis: mesh.get(axis, 1) for axis in AXES}
    search.check(sizes, config.train.microbatch_rows, config.model.remat)
    return Plan(machine, workload, (search.score(search.layout(sizes)),), 1)


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
    said: dict[str, Any] = {f"mesh.{axis}": size for axis, size in layout.sizes.items()}
    said |= {"mesh.num_slices": machine.num_slices, "train.microbatch_rows": layout.microbatch_rows}
    said["model.remat"] = layout.remat
    return {key: value for key, value in said.items() if _get(config, key) != value}


def _get(config: Any, key: str) -> Any:
    section, _, name = key.partition(".")
    return config[section][name]


def machine_at_hand(num_slices: int) -> Machine:
    """The machine that this process runs on, with its other hosts.

    Raises:
        ValueError: its chip is in no table.
    """
    devices = jax.devices()
    chip = chip_of(devices[0].device_kind) if devices[0].platform != "cpu" else parse_machine("cpu").chip
    if chip is None:
        raise ValueError(
            f"config.mesh.auto=True: {devices[0].device_kind!r} is no known chip; set the axes of config.mesh by hand"
        )
    if chip.platform == "cpu":
        return parse_machine(f"cpu:{len(devices)}", num_slices)
    if chip.platform == "gpu":
        hosts = max(1, len({device.process_index for device in devices}))
        return Machine(chip, (len(devices) // hosts,), hosts)
    first = [device for device in devices if getattr(device, "slice_index", 0) == 0]
    shape = tuple(1 + max(device.coords[i] for device in first) for i in range(chip.torus_dims))
    return Machine(chip, shape, len(devices) // len(first))


def with_plan(config: Any, log: Any) -> Any:
    """The config with the mesh, microbatch and remat that a plan for the devices at hand chooses.

    Args:
        config: the whole config; without `config.mesh.auto` it is returned as it is.
        log: called with lines for people.

    Raises:
        ValueError: nothing fits; it says what is largest.
    """
    if not config.mesh.auto:
        return config
    from .plan_text import describe, why_nothing_fits  # it is for people, and only here

    machine = machine_at_hand(config.mesh.num_slices)
    plan = make_plan(config, machine)
    if not plan.best.fits:
        raise ValueError(f"config.mesh.auto=True: {why_nothing_fits(config, plan)}")
    changed = overrides(config, plan.best, machine)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    keys = ", ".join(f"config.{key}={value}" for key, value in changed.items()) or "nothing to change"
    log(f"Planned for {machine.name}, estimated, not measured: {describe(plan.best)}: {keys}")
    return config
