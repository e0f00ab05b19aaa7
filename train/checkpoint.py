"""Saving and restoring trees of arrays: the one module that knows Orbax."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath


class Checkpoints:
    """The checkpoints of a run, under WORKDIR/checkpoints/STEP.

    A checkpoint is written in the background under a temporary name and renamed when it is whole, so whatever kills
    the process leaves the ones before it untouched.

    Args:
        workdir: the run's directory.
        keep: how many of the newest are kept.
        keep_every: those at multiples of this are kept for good; 0 is none.
        read_only: only restore; nothing is made or deleted.
    """

    def __init__(self, workdir: epath.Path, *, keep: int = 1, keep_every: int = 0, read_only: bool = False):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            keep_period=keep_every or None,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
        )
        self._workdir = workdir
        directory = epath.Path(workdir) / "checkpoints"
        if "://" not in str(directory):
            directory = epath.Path(os.path.abspath(directory))  # Orbax takes no relative paths, and says so late
        self._manager = ocp.CheckpointManager(directory, options=options)

    def latest_step(self) -> int | None:
        """The newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, **items: Any) -> None:
        """Starts saving and returns once the arrays may be overwritten; an earlier save is waited for.

        Args:
            step: its number.
            items: trees of arrays by name, each of which can be restored alone.

        Raises:
            OSError: this save or the one before failed.
        """
        with self._failure_named():
            args = ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()})
            saved = self._manager.save(step, args=args, force=True)
        assert saved, f"Orbax refused to save step {step}"

    def restore(self, step: int, **abstract: Any) -> dict[str, Any]:
        """Reads items of a checkpoint.

        Args:
            step: which one.
            abstract: for each item ShapeDtypeStructs with shardings for the mesh at hand, whatever mesh it was saved
                from.

        Returns:
            The trees with arrays placed as asked, by name.

        Raises:
            ValueError: the checkpoint does not have one of the items.
        """
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()})
        try:
            restored: Any = self._manager.restore(step, args=args)
        except KeyError as error:
            raise ValueError(
                f"--workdir={self._workdir}: the checkpoint of step {step} has no {' and '.join(abstract)}: it is of "
                "an imported model or of an older version; use another --workdir"
            ) from error
        return {name: restored[name] for name in abstract}

    def wait(self) -> None:
        """Waits until what was saved is on disk.

        Raises:
            OSError: a save failed.
        """
        with self._failure_named():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self._manager.close()

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        """Orbax and TensorStore raise many kinds of error for a full disk; none names our flag."""
        try:
            yield
        except Exception as error:
            kept = self._manager.latest_step()
            raise OSError(
                f"cannot write a checkpoint to --workdir={self._workdir}: {str(error).splitlines()[0][:300]}; "
                + (f"step {kept} is intact" if kept else "there is none yet")
            ) from error
