"""The compiled train step of a config before anything runs, for devices that need not be here."""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data import DataConfig, blank_row
from parallel import array_sharding, on_mesh

from .compose import make_model, rules_of
from .state import abstract_state
from .step import make_train_step

# What XLA's SPMD partitioner writes where it finds no way between two shardings but to make the whole tensor.
REMATERIALIZATION = "Involuntary full rematerialization"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program and what was said while it was compiled.

    Attributes:
        program: as `jax.stages.Lowered.compile` returns it.
        messages: what the process wrote to standard error meanwhile, XLA's C++ included.
    """

    program: jax.stages.Compiled
    messages: str

    @property
    def text(self) -> str:
        """The optimized program."""
        return self.program.as_text() or ""

    @property
    def rematerializes(self) -> bool:
        """Whether XLA warned of an involuntary full rematerialization."""
        return REMATERIALIZATION.lower() in self.messages.lower()


def abstract_batch(config: Any, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of the batch that a step takes: the config's task says which arrays there are."""
    B, classes = config.data.batch_size, make_model(config).config.choice("classifier")
    row = blank_row(DataConfig.of(config.data), num_classes=classes.classes if classes.kind else 0)

    def of(array: np.ndarray) -> jax.ShapeDtypeStruct:
        shape = (B, *array.shape)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=array_sharding(mesh, len(shape)))

    return {name: of(array) for name, array in row.items()}


def lower_step(config: Any, mesh: Mesh) -> jax.stages.Lowered:
    """The train step of a config, traced for a mesh whose devices may be those of a topology.

    Args:
        config: the whole config.
        mesh: such as `make_mesh(config.mesh, devices=topology.devices)` makes it.

    Raises:
        ValueError: the config is wrong, or does not fit the mesh.
    """
    step: Any = make_train_step(config, mesh)
    lower = on_mesh(step.__wrapped__.lower, mesh, rules_of(config))
    return lower(abstract_state(config, mesh), abstract_batch(config, mesh))


def compile_and_listen(lowered: jax.stages.Lowered) -> Compiled:
    """Compiles, without the compilation cache, and keeps what is said on the way.

    A program from the cache would come without its warnings. XLA writes those to the file descriptor of standard
    error, which Python's `sys.stderr` does not see.

    Raises:
        ValueError: the environment silences XLA's warnings.
    """
    if int(os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")) > 1:
        raise ValueError(f"TF_CPP_MIN_LOG_LEVEL={os.environ['TF_CPP_MIN_LOG_LEVEL']} hides XLA's warnings; use 1 or 0")
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with _standard_error() as written:
            program = lowered.compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    return Compiled(program, written[0])


@contextmanager
def _standard_error() -> Iterator[list[str]]:
    """Diverts file descriptor 2; the list holds what was written to it once the block is left."""
    written: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            written.append(file.read().decode(errors="replace"))
