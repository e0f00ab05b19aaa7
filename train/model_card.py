"""The README.md of an exported model: the run's facts, none of which is made up."""

import json
from typing import Any

from etils import epath

from data import make_ramp
from model import count_params

from .compose import make_model
from .metrics import read_metrics


def model_card(config: Any, workdir: epath.Path, step: int, imported: dict[str, Any]) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        config: the run's config.
        workdir: the run's or the imported model's directory.
        step: of the checkpoint.
        imported: contents of imported.json, or {}.

    Returns:
        The text.
    """
    model = make_model(config).config
    facts = {
        "parameters": f"{count_params(model)['total']:,}",
        "layers, width, heads": f"{model.num_layers}, {model.d_model}, {model.num_heads}",
        "vocabulary": f"{model.vocab_size:,}",
    }
    if imported:
        facts["imported from"] = f"{imported['from']} ({imported['family']})"
    else:
        facts |= _training(config, workdir, step)
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    front = "---\nlibrary_name: transformers\ntags: [palmette]\n---\n"
    text = f"{front}\n# {config.name}\n\n| | |\n| --- | --- |\n{rows}\n"
    if imported:
        return text
    return text + f"\nThe whole config:\n\n```json\n{json.dumps(config.to_dict(), indent=2)}\n```\n"


def _training(config: Any, workdir: epath.Path, step: int) -> dict[str, str]:
    rows = make_ramp(config.data.batch_ramp, config.data.batch_size).rows_before(step)
    tokens = rows * config.data.seq_len
    facts = {
        "trained on": config.data.source,
        "started from": config.init_from or "random parameters",
        "updates": f"{step:,}",
        "tokens in their batches": f"{tokens:,}",
        "seed": str(config.seed),
    }
    if (workdir / "corpus.json").exists():
        corpus = json.loads((workdir / "corpus.json").read_text())
        facts["SHA-256 of the training tokens"] = corpus["tokens_sha256"]["train"]
    figures = [record for record in read_metrics(workdir) if "valid_loss" in record and record["step"] <= step]
    if figures:
        last = figures[-1]
        facts[f"validation at update {last['step']}"] = (
            f"loss {last['valid_loss']:.4f} nats per token, {last['valid_bits_per_byte']:.4f} bits per byte"
        )
    return facts
