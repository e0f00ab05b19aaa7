"""What to do if nothing fits: what is largest, which changes would make it fit, and which machine would."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from parallel import Machine
from parallel.machine import tpu_shapes

from .candidates import HEADROOM, Search
from .plan_text import describe, origin
from .planning import Plan
from .words import GIB, gib
from .workload import workload_of

# What leaves the result as it is, but for rounding; a change counts only where the config says something else.
SAME = (("model.attention", "auto"), ("mesh.rules", "zero3"), ("model.dtype", "bfloat16"))
# An optimizer whose second moments are sums of rows and columns, for one with a number for each parameter.
LIGHTER = "adafactor"
SHORTEST = 256
LORA = "lora"


def why_nothing_fits(config: Any, plan: Plan) -> str:
    """What is largest, which changes, one after the other, would make it fit, and which machine would without them."""
    best, usable = plan.best, plan.machine.chip.usable_bytes
    largest = ", ".join(f"{name} {gib(size)}" for name, size in [*best.memory.terms.items()][:4])
    needs = "needs" if best.reading else "needs an estimated"
    lines = [
        f"nothing fits {plan.machine.name}: the smallest, {describe(best)}, {needs} {best.memory.total / GIB:.2f} GiB "
        f"of {usable / GIB:.2f} a chip (of which {HEADROOM:.0%} may be planned). Largest, by the {origin(best)}: "
        f"{largest}."
    ]
    for said, needed, fits in changes(config, plan.machine):
        lines.append(f"then {said}: {gib(needed)}{', which fits' * fits}.")
    if len(lines) > 1:
        lines[1] = lines[1].removeprefix("then ")
    for said, needed, fits in larger_machines(config, plan.machine):
        if fits:
            return "\n".join([*lines, f"Or all as it is with {said}: {gib(needed)}, which fits."])
    return "\n".join([*lines, "No larger machine of this chip would do; choose another chip or a smaller model."])


def changes(config: Any, machine: Machine) -> Iterator[tuple[str, float, bool]]:
    """Changes from the least to the most that they cost, each on top of those before, until it fits.

    First what leaves the result as it is, then the batch, the optimizer, the length of rows, and last what is trained.

    Returns:
        Of each, what it is, the bytes of a chip then, and whether that fits; all of it estimated.
    """
    config = config.copy_and_resolve_references()
    config.unlock()
    config.data.batch_ramp = ""  # which a batch of another size need not suit; the last, largest one is what must fit
    devices, batch, length = machine.num_devices, config.data.batch_size, config.data.seq_len
    steps: list[tuple[str, Any]] = [*SAME, ("train.objective", "auto")]
    if batch % devices:
        steps.append(("data.batch_size", max(1, round(batch / devices)) * devices))
    steps += [("optimizer.name", LIGHTER)]
    steps += [("data.seq_len", length // times) for times in (2, 4) if length // times >= SHORTEST]
    steps += [("train.parameters", LORA)] * (config.train.parameters == "all")
    for key, value in steps:
        section, _, name = key.partition(".")
        before = config[section][name]
        if before == value or (key == "train.objective" and not before.startswith("tokens")):
            continue
        config[section][name] = value
        try:
            found = _smallest(config, machine)
        except ValueError:  # not with this model
            found = None
        if found is None:
            config[section][name] = before
            continue
        yield f"config.{key}={value}", *found
        if found[1]:
            return


def larger_machines(config: Any, machine: Machine) -> Iterator[tuple[str, float, bool]]:
    """The next machines of a chip, each twice as large: its flags, the bytes of a chip, and whether that fits."""
    config = config.copy_and_resolve_references()
    config.unlock()
    for larger in next_machines(machine):
        flags = f"--topology {larger.name}"
        if larger.num_slices > 1 and larger.chip.platform == "tpu":
            flags += f" --num-slices {larger.num_slices}"
        config.mesh.num_slices = larger.num_slices
        if config.data.batch_size % larger.num_devices:
            config.data.batch_size = math.ceil(config.data.batch_size / larger.num_devices) * larger.num_devices
            flags += f" --config.data.batch_size={config.data.batch_size}"
        try:
            found = _smallest(config, larger)
        except ValueError:
            continue
        if found:
            yield flags, *found
            if found[1]:
                return


def next_machines(machine: Machine) -> list[Machine]:
    """Those that can be had: TPU slices of more chips, then more slices; GPUs of a whole host, then more hosts."""
    chip = machine.chip
    if chip.platform == "gpu":
        hosts = [2**i * machine.num_slices for i in range(1, 6)]
        first = [] if machine.shape == (chip.devices_per_host,) else [machine.num_slices]
        return [dataclasses.replace(machine, shape=(chip.devices_per_host,), num_slices=n) for n in (*first, *hosts)]
    if chip.platform == "cpu":
        return []  # simulated devices share what memory there is
    found, size = [], math.prod(machine.shape)
    shapes = sorted(tpu_shapes(chip), key=lambda shape: (math.prod(shape), max(shape)))
    for shape in shapes:  # of those with as many chips, the one nearest to a cube
        if math.prod(shape) >= 2 * size:
            found.append(dataclasses.replace(machine, shape=shape))
            size = math.prod(shape)
    largest = found[-1] if found else machine
    return found + [dataclasses.replace(largest, num_slices=machine.num_slices * 2**i) for i in (1, 2, 3)]


def _smallest(config: Any, machine: Machine) -> tuple[float, bool] | None:
    """Bytes of the smallest layout, and whether it fits; None if no mesh is legal."""
    found = Search(config, workload_of(config), machine).smallest()
    return found and (found.memory.total, found.fits)
