"""A GPT-2 of `transformers` in its Trainer, as a worker (tests/bench/peers/turns.py).

The Trainer runs in a thread of its own, which waits for each step to be asked for. It starts from Palmette's parameters
and decays what Palmette decays, so both must have the same losses.
"""

import queue
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.utils.data import IterableDataset  # pyright: ignore[reportMissingImports]
from transformers import (  # pyright: ignore[reportMissingImports]
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_constant_schedule,
)

from tests.bench.peers import shapes
from tests.bench.peers.shapes import Shape, Texts
from tests.bench.peers.turns import Peer, serve


class Rows(IterableDataset):
    """The rows of the batches, from the first again after the last; targets are shifted already."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray):
        self.inputs, self.targets = (array.reshape(-1, array.shape[-1]).astype(np.int64) for array in (inputs, targets))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        while True:
            for inputs, targets in zip(self.inputs, self.targets, strict=True):
                yield {"input_ids": inputs, "labels": targets, "shift_labels": targets}


class Paced(Trainer):
    """A Trainer that waits for each step to be asked for, and says its loss when it is done."""

    def __init__(self, **given: Any):
        super().__init__(**given)
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.loss: Any = None
        self.add_callback(_SaysLoss(self))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward."""
        self.asked.get()
        self.loss = super().training_step(*args, **kwargs)
        return self.loss


class _SaysLoss(TrainerCallback):
    def __init__(self, trainer: Paced):
        self.trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.done.put(float(self.trainer.loss))


def load(ours: Mapping[str, np.ndarray], layers: int) -> dict[str, torch.Tensor]:
    """Palmette's parameters; `transformers` has them as (in, out), too."""
    found = {"wte.weight": ours["embedding"], "wpe.weight": ours["positions"]}
    for part, name in (("weight", "scale"), ("bias", "bias")):
        found[f"ln_f.{part}"] = ours[f"final_norm/{name}"]
    for i in range(layers):
        layer = {name.removeprefix("layers/"): array[i] for name, array in ours.items() if name.startswith("layers/")}
        h = f"h.{i}"
        for theirs, name in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            found |= {f"{h}.{theirs}.weight": layer[f"{name}/scale"], f"{h}.{theirs}.bias": layer[f"{name}/bias"]}
        qkv = [layer[f"attention/w_{name}"] for name in "qkv"]
        found[f"{h}.attn.c_attn.weight"] = np.concatenate([each.reshape(len(each), -1) for each in qkv], axis=1)
        found[f"{h}.attn.c_attn.bias"] = np.concatenate([layer[f"attention/b_{name}"].reshape(-1) for name in "qkv"])
        out = layer["attention/w_out"]
        found[f"{h}.attn.c_proj.weight"] = out.reshape(-1, out.shape[-1])
        found[f"{h}.attn.c_proj.bias"] = layer["attention/b_out"]
        for theirs, name in (("c_fc", "in"), ("c_proj", "out")):
            found |= {
                f"{h}.mlp.{theirs}.weight": layer[f"mlp/w_{name}"],
                f"{h}.mlp.{theirs}.bias": layer[f"mlp/b_{name}"],
            }
    return {f"transformer.{name}": torch.from_numpy(np.array(array)) for name, array in found.items()}


def start(shape: Sequence[Any], *, weights: str, texts: str = "") -> Peer:
    """As `tests.bench.peers.ours.start`, from the parameters in a file.

    Raises:
        ValueError: the shape is not a GPT-2.
    """
    shape = Shape(*shape)
    if shape.style != "gpt2" or not shape.tied:
        raise ValueError(f"a GPT-2 of transformers is meant, not {shape}")
    sizes = {"n_positions": shape.length, "n_embd": shape.width, "n_layer": shape.layers, "n_head": shape.heads}
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    plain |= {"bos_token_id": None, "eos_token_id": None}
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=shape.vocab, n_inner=shape.hidden, **sizes, **plain))
    missing = model.load_state_dict(load(np.load(weights), shape.layers), strict=False)
    assert missing == (["lm_head.weight"], []), missing  # which is tied to wte
    read = Texts.read(shape, texts)
    with tempfile.TemporaryDirectory() as directory:  # to which nothing is written
        trainer = make_trainer(model, shape, Rows(read.inputs, read.targets), directory)

    def run(steps: int) -> float:
        for _ in range(steps):
            trainer.asked.put(None)
        return [trainer.done.get() for _ in range(steps)][-1]

    @torch.no_grad()
    def valid() -> float:
        held = [torch.from_numpy(array).long().to(model.device) for array in (read.valid_inputs, read.valid_targets)]
        pairs = zip(*held, strict=True)
        return statistics.fmean(
            float(model(input_ids=inputs, labels=targets, shift_labels=targets).loss) for inputs, targets in pairs
        )

    threading.Thread(target=trainer.train, daemon=True).start()
    return Peer(run, valid)


def make_trainer(model: Any, shape: Shape, rows: Rows, directory: str) -> Paced:
    """The Trainer of a model, with its own defaults but for what all who take part have in common."""
    decayed = [p for name, p in model.named_parameters() if name.startswith("transformer.h.") and p.ndim > 1]
    rest = [p for p in model.parameters() if all(p is not one for one in decayed)]
    groups = [{"params": decayed, "weight_decay": shapes.DECAY}, {"params": rest, "weight_decay": 0.0}]
    rates: Any = {"lr": shapes.LEARNING_RATE, "betas": shapes.BETAS, "eps": shapes.EPS}
    optimizer = torch.optim.AdamW(groups, **rates, fused=True)
    arguments = TrainingArguments(
        output_dir=directory,
        max_steps=10**9,
        per_device_train_batch_size=shape.rows,
        max_grad_norm=shapes.CLIP,
        bf16=shape.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return Paced(
        model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, get_constant_schedule(optimizer))
    )


if __name__ == "__main__":
    serve(start)
