"""Compiles the published runs of another training stack for their pods, and reads both in the same way.

    JAX_PLATFORMS=cpu python -m tests.bench.quality [8b 70b llama2_70b]

A compile takes minutes of CPU time and 4 GB; with names only those runs are compiled anew.
"""

from typing import Any, NamedTuple


class Run(NamedTuple):
    """A run.

    Attributes:
        what: in words.
        base: a file of configs/.
        topology: the pod.
        shape: what makes the config the published run.
        theirs: MFU of MaxText's step, overlapped and serial, compiled for the same pod and read in the same way.
        changes: what is changed of the config, one on top of the other, and in words.
    """

    what: str
    base: str
    topology: str
    shape: dict[str, Any]
    theirs: tuple[float, float]
    changes: tuple[tuple[str, dict[str, Any]], ...]


POD = {"mesh.data": 1, "mesh.fsdp": -1}
BEFORE = ("full remat, splash attention by its defaults", {})
