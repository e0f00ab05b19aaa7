"""Saving and restoring trees of arrays: the one module that knows Orbax."""

import contextlib
import os
from collections.abc import Iterator, Sequence
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

    Attributes:
        best: a step that is kept, too, as long as it stands here; or None.
    """

    best: int | None = None

    def __init__(self, workdir: epath.Path, *, keep: int = 1, keep_every: int = 0, read_only: bool = False):
        policies = ocp.checkpoint_managers
        kept = [policies.LatestN(None if read_only else keep), _KeepBest(self)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
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

    def has(self, step: int) -> bool:
        """Whether there is a whole checkpoint of a step."""
        return step in self._manager.all_steps()

    def facts(self, step: int) -> dict[str, Any]:
        """What was saved with a checkpoint beside its arrays; {} if nothing was."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))["facts"]
        except (KeyError, FileNotFoundError):
            return {}

    def save(self, step: int, *, facts: dict[str, Any] | None = None, **items: Any) -> None:
        """Starts saving and returns once the arrays may be overwritten; an earlier save is waited for.

        Args:
            step: its number.
            facts: what else to keep, as JSON can say it.
            items: trees of arrays by name, each of which can be restored alone.

        Raises:
            OSError: this save or the one before failed.
        """
        with self._failure_named():
            args: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
            if facts:
                args["facts"] = ocp.args.JsonSave(facts)
            saved = self._manager.save(step, args=ocp.args.Composite(**args), force=True)
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


class _KeepBest:
    """Orbax's form of a rule for what is kept: the best checkpoint."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Which ones this rule keeps."""
        del context
        return [checkpoint.step == self._checkpoints.best for checkpoint in checkpoints]
