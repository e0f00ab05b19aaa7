"""The tiny models in this project: imported from a directory, evaluated, and exported again.

All that the comparisons use of the project is in this file.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file

from configs import base
from model import GREEDY, Transformer, TransformerConfig, generate
from tests.reference.weights import INPUTS, NUM_GENERATED, generator
from train.exchange import Source, import_tensors, open_source
from train.export import export_tensors

# What a tiny test waits for is the compiler, most of all for fused loops of its own, which CPUs can do without.
OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # the option is gone there
    OPTIONS["xla_cpu_use_fusion_emitters"] = False
jit = functools.partial(jax.jit, compiler_options=OPTIONS)


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model with its parameters, and the directory that they come from."""

    model: Transformer
    params: Any
    source: Source


def load(directory: Path) -> Imported:
    """Imports a directory, in float32 and with a vocabulary that is padded."""
    source = open_source(directory)
    defaults: Any = base.get_config().model
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    values = {name: defaults[name] for name in defaults if name in names} | source.core
    values |= {"dtype": "float32", "dropout": 0.0, "vocab_multiple": 64, "vocab_size": source.core.get("vocab_size", 1)}
    config = TransformerConfig(**{name: value for name, value in values.items() if name in names})
    model, image = Transformer(config), config.choice("image")
    inputs = jnp.zeros((1, image.size, image.size, image.channels) if image.kind else (1, 1), jnp.int32)
    tree = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), inputs)["params"])
    paths = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    leaves = dict(import_tensors(source, {path: leaf.shape for path, leaf in paths.items()}))
    params = jax.tree.unflatten(jax.tree.structure(tree), [jnp.asarray(leaves[path]) for path in paths])
    return Imported(model, params, source)


def export(imported: Imported, params: Any, directory: Path) -> dict[str, np.ndarray]:
    """Writes parameters as `transformers` would; gradients count as such, too. Returns the tensors in the file."""
    params = jax.tree.map(np.asarray, params)  # the way of device arrays is compiled for each shape
    ids = {key: value for key, value in imported.source.config.items() if key.endswith("_token_id")}  # as train.convert
    export_tensors(params, imported.source.core, imported.source.family, directory, extra=ids)
    return load_file(directory / "model.safetensors")


def evaluate(imported: Imported, batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float, Any]:
    """Outputs (logits without those of the padded vocabulary), loss, and the gradients as a tree of parameters."""
    is_bare = imported.source.config["architectures"] == ["BertModel"]
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    (loss, outputs), gradients = _evaluate(imported.model, is_bare, imported.params, inputs)
    outputs = {name: np.asarray(output) for name, output in outputs.items()}
    return outputs, float(loss), gradients


def gradients_on_disk(imported: Imported, gradients: Any) -> dict[str, np.ndarray]:
    """Gradients under the names and in the shapes that the weights have on disk."""
    with tempfile.TemporaryDirectory() as directory:
        return export(imported, gradients, Path(directory))


def continue_greedily(imported: Imported, prompts: np.ndarray) -> np.ndarray:
    """The most likely tokens after each prompt; an encoder-decoder reads the prompt and begins with its first token."""
    memory = {}
    if imported.model.config.encoder is not None:
        memory = {"encoder_tokens_BS": prompts}
        prompts = np.full((len(prompts), 1), imported.source.config["decoder_start_token_id"], np.int32)
    return np.asarray(_continue(imported.model, imported.params, prompts, memory))


@functools.partial(jit, static_argnums=0)
def _continue(model: Transformer, params: Any, prompts: Any, memory: dict[str, Any]) -> Any:
    lengths, key = jnp.full(prompts.shape[0], prompts.shape[1], jnp.int32), jax.random.key(0)
    return generate(model, params, prompts, lengths, key, max_tokens=NUM_GENERATED, sampling=GREEDY, **memory)


@functools.partial(jit, static_argnums=(0, 1))
def _evaluate(model: Transformer, is_bare: bool, params: Any, batch: dict[str, Any]) -> Any:
    return jax.value_and_grad(lambda params: _loss(model, is_bare, params, batch), has_aux=True)(params)


def _loss(model: Transformer, is_bare: bool, params: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    outputs = _apply(model, is_bare, params, batch)
    total = jnp.zeros(())
    if "logits" in outputs:
        total += _mean(optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], batch["targets"]), batch)
    if "classes" in outputs:
        total += optax.softmax_cross_entropy_with_integer_labels(outputs["classes"], batch["labels"]).mean()
    if "hidden" in outputs:
        total += _mean(outputs["hidden"] @ _direction("hidden", outputs), batch)
        total += (outputs["pooled"] @ _direction("pooled", outputs)).mean()
    return total, outputs


def _apply(model: Transformer, is_bare: bool, params: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What the reference says, too: hidden states of a bare encoder, classes of images, else logits and more."""
    arguments, inputs = {}, batch.get("tokens")
    if "images" in batch:
        inputs = jnp.transpose(batch["images"], (0, 2, 3, 1))
    else:
        arguments = {"segment_ids_BT": batch["mask"], "token_types_BT": batch.get("token_types")}
    if "encoder_tokens" in batch:
        arguments["encoder_tokens_BS"] = batch["encoder_tokens"]
        arguments["encoder_segment_ids_BS"] = batch["encoder_mask"]
    outputs = model.apply({"params": params}, inputs, **arguments, want="all")
    wanted = ("classes",) if "images" in batch else ("hidden", "pooled") if is_bare else ("logits", "classes", "pooled")
    outputs = {name: outputs[name] for name in wanted if name in outputs}
    if "logits" in outputs:
        outputs["logits"] = outputs["logits"][..., : model.config.vocab_size]
    return outputs


def _mean(values_BT: Any, batch: dict[str, Any]) -> Any:
    return (values_BT * batch["weights"]).sum() / batch["weights"].sum()


def _direction(name: str, outputs: dict[str, Any]) -> Any:
    return jnp.asarray(generator("direction", name).standard_normal(outputs[name].shape[-1], dtype=np.float32))
