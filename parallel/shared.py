"""Whether a directory is one and the same for all processes."""

import contextlib
import uuid

import jax
from etils import epath

from .processes import exchange, name_of


def check_shared(directory: epath.Path) -> None:
    """Checks that every process can write to a directory and sees what the others wrote; it is made when missing.

    Args:
        directory: local, or gs:// or s3://.

    Raises:
        OSError: a process cannot write; it names the process and its host.
        ValueError: processes have different directories under this name.
    """
    index = jax.process_index()
    token = exchange("probe", uuid.uuid4().hex)[0]
    files = [directory / f".probe-{token}-{i}" for i in range(jax.process_count())]
    failure = ""
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            files[index].write_text("x" * 4096)
        except OSError as error:
            failure = str(error)
        for i, said in enumerate(exchange("probe written", failure)):
            if said:
                where = "" if len(files) == 1 else f" from {name_of(i)}"
                raise OSError(f"cannot write to --workdir={directory}{where}: {said}")
        unseen = [i for i, file in enumerate(files) if not file.exists()]
        for i, others in enumerate(exchange("probe seen", " ".join(map(str, unseen)))):
            if others:
                raise ValueError(
                    f"--workdir={directory} is not shared: {name_of(i)} does not see what "
                    f"{', '.join(name_of(int(other)) for other in others.split()[:8])} wrote there; use a directory "
                    "that all hosts mount, or gs:// or s3://"
                )
    finally:
        with contextlib.suppress(OSError):
            files[index].unlink(missing_ok=True)
