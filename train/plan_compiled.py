"""The one place where a plan asks the compiler."""

from typing import Any

from parallel import Machine

from .candidates import Candidate
from .compile import compile_step
from .compiled import Reading
from .memory import Memory
from .planning import overrides


def compiled_candidate(config: Any, candidate: Candidate, machine: Machine) -> tuple[Memory, Reading]:
    """Compiles a candidate's step ahead of time.

    Args:
        config: the whole config.
        candidate: what is to be compiled.
        machine: which need not be here.

    Returns:
        The memory in the compiler's terms, and its whole reading.

    Raises:
        ValueError: the compiler is not installed, or the config is not for this machine.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(overrides(config, candidate, machine))
    reading = compile_step(config, machine)
    said = reading.memory
    terms = {"state and batch": said.arguments, "temporaries": said.needed - said.arguments}
    return Memory("compiled", terms), reading
