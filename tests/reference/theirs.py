"""The tiny models in PyTorch: outputs, loss, gradients and greedy tokens of `transformers`, which ours are held to."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy  # pyright: ignore[reportMissingImports]

from tests.reference.models import REFERENCES
from tests.reference.weights import NUM_GENERATED, generator

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def make(family: str) -> Any:
    """A model of the tiny config with whatever weights `transformers` begins with."""
    reference = REFERENCES[family]
    config = transformers.CONFIG_MAPPING[reference.model_type](**reference.config)
    config.architectures = [reference.architecture]
    model = getattr(transformers, reference.architecture)._from_config(config, attn_implementation="eager")
    if family == "t5_v1_1":  # T5Config ties the head whatever it is told; only a file with both tensors unties it
        model.lm_head.weight = torch.nn.Parameter(model.shared.weight + 1)
        model.all_tied_weights_keys.pop("lm_head.weight", None)
        model.config.tie_word_embeddings = False
    return model.eval()


def load(family: str, directory: Path) -> Any:
    """Reads a directory as a user would, and insists that every tensor in it had its place."""
    architecture = getattr(transformers, REFERENCES[family].architecture)
    model, info = architecture.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], (family, problem, info[problem])
    return model.eval()


def outputs(family: str, model: Any, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the model says about a batch, as tensors: logits, hidden, pooled or classes."""
    reference = REFERENCES[family]
    tensors = {name: torch.from_numpy(array).to(torch.long) for name, array in batch.items() if name != "images"}
    if reference.kind == "image":
        return {"classes": model(torch.from_numpy(batch["images"])).logits}
    if reference.kind == "encoder_decoder":
        return {
            "logits": model(
                input_ids=tensors["encoder_tokens"],
                attention_mask=tensors["encoder_mask"],
                decoder_input_ids=tensors["tokens"],
                decoder_attention_mask=tensors["mask"],
            ).logits
        }
    arguments = {"input_ids": tensors["tokens"], "attention_mask": tensors["mask"]}
    if "token_types" in tensors:
        arguments["token_type_ids"] = tensors["token_types"]
    if reference.kind == "hidden":
        result = model(**arguments)
        return {"hidden": result.last_hidden_state, "pooled": result.pooler_output}
    if reference.architecture == "BertForPreTraining":
        pooled = model.bert(**arguments).pooler_output
        result = model(**arguments)
        return {"logits": result.prediction_logits, "classes": result.seq_relationship_logits, "pooled": pooled}
    return {"logits": model(**arguments).logits}


def loss(family: str, model: Any, batch: dict[str, np.ndarray]) -> Any:
    """Mean cross-entropy of the weighted targets, of the labels, or of both; of hidden states a random projection."""
    result = outputs(family, model, batch)
    total = torch.zeros(())
    if "logits" in result:
        weights = torch.from_numpy(batch["weights"])
        targets = torch.from_numpy(batch["targets"]).to(torch.long)
        losses = cross_entropy(result["logits"].transpose(1, 2), targets, reduction="none")
        total = total + (losses * weights).sum() / weights.sum()
    if "classes" in result:
        total = total + cross_entropy(result["classes"], torch.from_numpy(batch["labels"]).to(torch.long))
    if "hidden" in result:
        weights = torch.from_numpy(batch["weights"])
        total = total + ((result["hidden"] @ direction("hidden", result)) * weights).sum() / weights.sum()
        total = total + (result["pooled"] @ direction("pooled", result)).mean()
    return total


def direction(name: str, result: dict[str, Any]) -> Any:
    """A fixed random vector for the last dim of an output."""
    return torch.from_numpy(generator("direction", name).standard_normal(result[name].shape[-1], dtype=np.float32))


def gradients(family: str, model: Any, batch: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and its gradient for each parameter under the name that the parameter has on disk.

    The gradients are saved as if they were weights, so that `transformers` itself undoes its fusions and renamings.
    """
    model.zero_grad()
    value = loss(family, model, batch)
    value.backward()
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        model.save_pretrained(directory)
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        on_disk = load_file(Path(directory) / "model.safetensors")
    buffers = ("final_logits_bias", "e_score_correction_bias")  # not trained by `transformers`
    return value.item(), {name: array for name, array in on_disk.items() if not name.endswith(buffers)}


def generate(family: str, model: Any, prompts: np.ndarray) -> tuple[np.ndarray, float]:
    """Greedy continuations that nothing ends early, and the smallest lead of a chosen token over the next best."""
    model.generation_config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=NUM_GENERATED,
        pad_token_id=model.config.pad_token_id,
        bos_token_id=model.config.bos_token_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )
    tokens = torch.from_numpy(prompts).to(torch.long)
    result = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), output_logits=True, return_dict_in_generate=True
    )
    best = torch.stack(result.logits).topk(2, dim=-1).values
    return result.sequences[:, -NUM_GENERATED:].numpy().astype(np.int32), (best[..., 0] - best[..., 1]).min().item()
