"""Writes tests/golden: what `transformers` computes for each tiny model, in files small enough to commit.

Run it from the repository's root, in an environment with the extras `dev` and `reference`:

    python -m tests.reference.make_golden [FAMILY ...]
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import safetensors
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from tests.reference import theirs
from tests.reference.models import REFERENCES
from tests.reference.weights import (
    GOLDEN,
    NUM_PROJECTIONS,
    generator,
    make_batches,
    make_prompts,
    project,
    write_directory,
)

NUM_POSITIONS = 6  # of each row, whose logits the file holds
MIN_LEAD = 2e-3  # of a greedy token over the next best: rounding must not decide
MIN_VARIETY = 8  # different tokens among those generated: a row that repeats itself tests no cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(REFERENCES), help="which files to write; all by default")
    GOLDEN.mkdir(exist_ok=True)
    for family in parser.parse_args().families:
        seed = write_golden(family)
        size = sum(file.stat().st_size for file in GOLDEN.glob(f"{family}.*"))
        print(f"{family:16} seed {seed}  {size / 1024:6.1f} KiB", flush=True)
    print(" ".join(f"{name} {version}" for name, version in versions().items()))


def versions() -> dict[str, str]:
    """With what the files were made."""
    modules = {"torch": torch, "transformers": transformers, "numpy": np, "safetensors": safetensors}
    return {name: module.__version__ for name, module in modules.items()} | {"python": platform.python_version()}


def write_golden(family: str) -> int:
    """Tries seeds until greedy generation is neither undecided nor monotonous, and writes the family's two files."""
    for seed in range(300):
        write_description(family, seed)
        with tempfile.TemporaryDirectory() as directory:
            model = theirs.load(family, write_directory(family, Path(directory)))
        arrays: dict[str, np.ndarray] = {}
        if REFERENCES[family].kind in ("decoder", "encoder_decoder"):
            arrays["prompts"] = make_prompts(family)
            arrays["generated"], lead = theirs.generate(family, model, arrays["prompts"])
            if lead < MIN_LEAD or min(len(np.unique(row)) for row in arrays["generated"]) < MIN_VARIETY:
                continue
        for i, batch in enumerate(make_batches(family)):
            arrays |= {f"{i}/{name}": array for name, array in batch_arrays(family, model, batch, first=i == 0).items()}
        np.savez_compressed(GOLDEN / f"{family}.npz", **arrays)
        return seed
    raise RuntimeError(f"no seed gives {family} a greedy continuation that is worth comparing")


def write_description(family: str, seed: int) -> None:
    """The family's JSON file: config and tensors as `save_pretrained` writes them."""
    with tempfile.TemporaryDirectory() as directory:
        theirs.make(family).save_pretrained(directory)
        config = json.loads((Path(directory) / "config.json").read_text())
        with safetensors.safe_open(Path(directory) / "model.safetensors", framework="numpy") as file:
            tensors = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    lines = ",\n".join(f"    {json.dumps(name)}: {shape}" for name, shape in tensors.items())
    head = json.dumps({"family": family, "seed": seed, "versions": versions(), "config": config}, indent=2)
    (GOLDEN / f"{family}.json").write_text(f'{head[:-2]},\n  "tensors": {{\n{lines}\n  }}\n}}\n')


def batch_arrays(family: str, model, batch: dict[str, np.ndarray], *, first: bool) -> dict[str, np.ndarray]:
    """The batch, what the model says about it at a few positions, and (for the first batch) loss and gradients."""
    arrays = dict(batch)
    with torch.no_grad():
        for name, output in theirs.outputs(family, model, batch).items():
            values = output.numpy()
            if name in ("logits", "hidden"):
                lengths = batch["mask"].sum(1)
                picks = [generator(family, name, i).permutation(n)[:NUM_POSITIONS] for i, n in enumerate(lengths)]
                rows = np.repeat(np.arange(len(picks)), [len(pick) for pick in picks])
                arrays["rows"], arrays["columns"] = rows, np.concatenate(picks)
                values = values[arrays["rows"], arrays["columns"]]
            arrays[name] = values
    if first:
        loss, gradients = theirs.gradients(family, model, batch)
        names = sorted(gradients)
        projections = [project(name, gradients[name]) for name in names]
        arrays["loss"] = np.float32(loss)
        arrays["gradient_norms"] = np.array([np.linalg.norm(gradients[name]) for name in names], np.float32)
        arrays["gradient_projections"] = np.array(projections, np.float32).reshape(-1, NUM_PROJECTIONS)
    return arrays


if __name__ == "__main__":
    main()
