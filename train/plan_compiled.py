"""The one place where a plan asks the compiler."""

from typing import Any

from parallel import Machine, make_mesh, topology_devices

from .ahead import compile_and_listen, lower_step
from .candidates import Candidate
from .memory import Memory
from .planning import overrides


def compiled_memory(config: Any, candidate: Candidate, machine: Machine) -> tuple[Memory | None, bool, str]:
    """Compiles a candidate's step ahead of time.

    Args:
        config: the whole config.
        candidate: what is to be compiled.
        machine: which need not be here.

    Returns:
        The memory as the compiler reports it, or None if the program does not fit; whether it does; and a line.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(overrides(config, candidate, machine))
    mesh = make_mesh(config.mesh, devices=topology_devices(machine))
    try:
        program = compile_and_listen(lower_step(config, mesh)).program
    except Exception as error:  # XLA's, of which only the text tells what it is
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, False, str(error).splitlines()[0]
    stats = program.memory_analysis()
    assert stats is not None, "the compiler says nothing about memory"
    state, peak = stats.argument_size_in_bytes, stats.peak_memory_in_bytes
    memory = Memory("compiled", {"temporaries": peak - state, "state": state})
    return (
        memory,
        peak <= machine.chip.usable_bytes,
        f"{peak / 2**30:.2f} GiB a chip, of which {state / 2**30:.2f} state",
    )
