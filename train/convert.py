"""Models in Hugging Face's format, in and out.

    python -m train.convert import DIR --workdir WORKDIR
    python -m train.convert export DIR --workdir WORKDIR

import reads config.json, safetensors and the tokenizer in DIR, and makes WORKDIR of them, which train.evaluate and
train.generate take as --workdir, and a run as --config.init_from. export writes the newest checkpoint in WORKDIR, of a
run (its best, with config.train.best) or of an imported model, to DIR, where transformers loads it.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jax
from etils import epath

from data import load_tokenizer
from data.command_line import read_command_line
from parallel import check_platform, make_mesh, start

from .checkpoint import Checkpoints
from .compose import make_model, preflight
from .optimizer import parameter_name
from .restore import restore_params
from .runtime import run_command, set_up
from .state import abstract_state
from .width import is_mup
from .workdir import IMPORTED, check_workdir, read_tokenizer, replace_file, write_tokenizer

WORKDIR = {"workdir": (None, "the run's or the imported model's directory")}
EXPORT = {
    "family": ("", "a model_type such as llama; empty: as it was imported, or the first that can say the model"),
    "dtype": ("", "float32, bfloat16 or float16; empty: as it was imported, or float32"),
}


def main(argv: list[str]) -> None:
    """The command."""
    if {"--help", "-h"} & set(argv) or len(argv) < 2 or argv[0] not in ("import", "export"):
        read_command_line(["--help"], "train.convert", __doc__ or "", options=WORKDIR | EXPORT)
    for package in ("safetensors", "einops", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{package} is not installed; it comes with make train EXTRAS=dev,exchange")
    direction, directory, *rest = argv
    if directory.startswith("--"):
        raise ValueError(f"python -m train.convert {direction} needs a directory before {directory}")
    {"import": import_model, "export": export_model}[direction](Path(directory).expanduser(), rest)


def import_model(directory: Path, argv: list[str]) -> None:
    """Makes a workdir of a model in Hugging Face's format.

    Raises:
        ValueError: the model cannot be read, or the workdir is not empty; nothing is written then.
    """
    from .exchange import import_params, open_source  # the extra "exchange" need not be there for the rest of `train`

    if not any(arg.startswith("--config=") or arg == "--config" for arg in argv):
        argv = ["--config=configs/base.py", *argv]
    arguments = read_command_line(argv, "train.convert import", __doc__ or "", options=WORKDIR)
    config: Any = arguments.config
    workdir = arguments.flags["workdir"]
    if is_mup(config):
        raise ValueError(
            f"config.model.init={config.model.init!r}: imported models are in the parametrisation 'standard'"
        )
    source = open_source(directory)
    tokenizer = None
    try:
        tokenizer = load_tokenizer(directory)
    except ValueError as error:
        print(f"No tokenizer is imported: {error}", file=sys.stderr)
    with config.unlocked():
        _adopt_core(config, source.core)
        config.name = directory.resolve().name
        config.data.tokenizer = str(directory)

    set_up(config.compile_cache)
    start(config.distributed)
    check_platform(config.platform)
    mesh = make_mesh(config.mesh)
    preflight(config, mesh)
    check_workdir(workdir, config, print)
    params = import_params(source, abstract_state(config, mesh).params)
    facts = {
        "from": directory.resolve().name,
        "family": source.family.model_type,
        "dtype": source.dtype,
        "token_ids": {key: value for key, value in source.config.items() if key.endswith("_token_id")},
    }
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, params=params)
    checkpoints.close()
    if jax.process_index() == 0:
        if tokenizer is not None:
            write_tokenizer(workdir, tokenizer)
        replace_file(workdir / IMPORTED, (json.dumps(facts, indent=2) + "\n").encode())
        # The last: it tells that the model is here.
        config.data.tokenizer = str(workdir if "://" in str(workdir) else Path(workdir).resolve())
        replace_file(workdir / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode())
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(f"{workdir}: {source.family.model_type}, {size:,} parameters", file=sys.stderr)


def _adopt_core(config: Any, core: dict[str, Any]) -> None:
    """Takes the fields of the core into a config; lengths stay within what the model has positions for."""
    for field, value in core.items():
        if field == "vocab_size":
            config.data.vocab_size = value
        else:
            config.model[field] = type(config.model[field])(value)
    config.data.seq_len = min(config.data.seq_len, core.get("max_length") or config.data.seq_len)


def export_model(directory: Path, argv: list[str]) -> None:
    """Writes a model, its tokenizer and a card of its facts in Hugging Face's format.

    Raises:
        ValueError: no family can say the model, or the directory has one; nothing is written then.
    """
    from model.families import family_of

    from .export import export_tensors
    from .model_card import model_card

    options = WORKDIR | EXPORT
    arguments = read_command_line(
        argv, "train.convert export", __doc__ or "", options=options, config_from_workdir=True
    )
    config: Any = arguments.config
    workdir: epath.Path = arguments.flags["workdir"]
    imported = json.loads((workdir / IMPORTED).read_text()) if (workdir / IMPORTED).exists() else {}
    params, _, step = restore_params(config, workdir)
    model = make_model(config).config
    if model.value_mix:
        raise ValueError(f"config.model.value_mix={model.value_mix!r} cannot be exported: no family mixes values")
    core = dataclasses.asdict(model.as_standard())
    shapes = {parameter_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    name = arguments.flags["family"] or imported.get("family")
    family = family_of(name) if name else _family_that_says(core, shapes)
    tokenizer = _tokenizer_of(workdir)
    ids = imported.get("token_ids") or _token_ids(tokenizer)
    dtype = arguments.flags["dtype"] or imported.get("dtype", "float32")
    export_tensors(params, core, family, directory, dtype=dtype, extra=ids)
    if jax.process_index() != 0:
        return
    if tokenizer is not None:
        from data.tokenizer_export import save_pretrained_tokenizer

        save_pretrained_tokenizer(tokenizer, directory)
    (directory / "README.md").write_text(model_card(config, workdir, step, imported))
    print(f"{directory}: {family.architecture_of(core)}, {dtype}, of step {step}", file=sys.stderr)


def _family_that_says(core: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Any:
    from model.families import FAMILIES, bind

    reasons = []
    for family in FAMILIES.values():
        try:
            names = {tensor.name for tensor in bind(family, core, shapes)}
            family.to_hugging_face(core, names)
        except (ValueError, KeyError) as error:
            reasons.append(f"  {family.model_type}: {error}")
        else:
            return family
    raise ValueError("transformers has no family for this model:\n" + "\n".join(reasons))


def _tokenizer_of(workdir: epath.Path) -> Any:
    try:
        return read_tokenizer(workdir)
    except ValueError:
        return None


def _token_ids(tokenizer: Any) -> dict[str, int | None]:
    if tokenizer is None:  # the defaults of transformers may lie beyond the vocabulary
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}


if __name__ == "__main__":
    run_command(main)
