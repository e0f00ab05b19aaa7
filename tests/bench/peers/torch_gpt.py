"""A decoder in PyTorch as its documentation would have it written, as a worker (tests/bench/peers/turns.py).

Scaled dot-product attention, autocast to bfloat16 where the shape asks for it, the fused AdamW; if asked, the model and
its loss go through torch.compile. It starts from Palmette's parameters, so both must have the same losses.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from tests.bench.peers import shapes
from tests.bench.peers.shapes import Shape, Texts
from tests.bench.peers.turns import Peer, serve


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions of (..., length, head dim), the first half of a head with the second."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Layer(nn.Module):
    """A block with its norms first."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, size = shape, shape.width // shape.heads
        is_gpt = shape.style == "gpt2"
        norm = nn.LayerNorm if is_gpt else nn.RMSNorm
        self.attention_norm, self.mlp_norm = (norm(shape.width, eps=1e-5) for _ in range(2))
        self.qkv = nn.Linear(shape.width, (shape.heads + 2 * shape.kv_heads) * size, bias=is_gpt)
        self.out = nn.Linear(shape.heads * size, shape.width, bias=is_gpt)
        self.up = nn.Linear(shape.width, shape.hidden * (1 if is_gpt else 2), bias=is_gpt)
        self.down = nn.Linear(shape.hidden, shape.width, bias=is_gpt)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        """(rows, length, width) to the same."""
        shape, size = self.shape, self.shape.width // self.shape.heads
        heads = (shape.heads, shape.kv_heads, shape.kv_heads)
        parts = self.qkv(self.attention_norm(x)).split([count * size for count in heads], dim=-1)
        q, k, v = (part.unflatten(-1, (-1, size)).transpose(1, 2) for part in parts)
        if turn is not None:
            q, k = rotate(q, *turn).to(v.dtype), rotate(k, *turn).to(v.dtype)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shape.heads != shape.kv_heads)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        hidden = self.up(self.mlp_norm(x))
        if shape.style == "gpt2":
            return x + self.down(functional.gelu(hidden, approximate="tanh"))
        gate, up = hidden.chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


class Decoder(nn.Module):
    """A decoder and its loss."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.positions = nn.Embedding(shape.length, shape.width) if shape.style == "gpt2" else None
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        norm = nn.LayerNorm if shape.style == "gpt2" else nn.RMSNorm
        self.final_norm = norm(shape.width, eps=1e-5)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight
        size = shape.width // shape.heads
        rates = 500_000.0 ** -(torch.arange(0, size, 2) / size)
        angles = torch.arange(shape.length)[:, None] * rates
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy in nats."""
        x, turn = self.embedding(inputs), None
        if self.positions is not None:
            x = x + self.positions.weight
        else:
            turn = (self.cos, self.sin)
        for layer in self.layers:
            x = layer(x, turn)
        logits = self.head(self.final_norm(x))
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def load(model: Decoder, path: str) -> None:
    """Palmette's parameters."""
    ours = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    layers, is_gpt = model.shape.layers, model.shape.style == "gpt2"
    found = {"embedding.weight": ours["embedding"], "head.weight": ours["embedding" if model.shape.tied else "head"]}
    if is_gpt:
        found["positions.weight"] = ours["positions"]

    def norm(theirs: str, name: str, part: Callable[[torch.Tensor], torch.Tensor]) -> None:
        found[f"{theirs}.weight"] = part(ours[f"{name}/scale"])
        if is_gpt:
            found[f"{theirs}.bias"] = part(ours[f"{name}/bias"])

    norm("final_norm", "final_norm", lambda x: x)
    for i in range(layers):
        layer = {name[len("layers/") :]: array[i] for name, array in ours.items() if name.startswith("layers/")}
        norm(f"layers.{i}.attention_norm", "layers/attention_norm", lambda x, i=i: x[i])
        norm(f"layers.{i}.mlp_norm", "layers/mlp_norm", lambda x, i=i: x[i])
        ups = ("in",) if is_gpt else ("gate", "in")
        found[f"layers.{i}.qkv.weight"] = torch.cat([layer[f"attention/w_{name}"].flatten(1).T for name in "qkv"])
        found[f"layers.{i}.out.weight"] = layer["attention/w_out"].flatten(0, 1).T
        found[f"layers.{i}.up.weight"] = torch.cat([layer[f"mlp/w_{name}"].T for name in ups])
        found[f"layers.{i}.down.weight"] = layer["mlp/w_out"].T
        if is_gpt:
            found[f"layers.{i}.qkv.bias"] = torch.cat([layer[f"attention/b_{name}"].flatten() for name in "qkv"])
            found[f"layers.{i}.out.bias"] = layer["attention/b_out"]
            found[f"layers.{i}.up.bias"], found[f"layers.{i}.down.bias"] = layer["mlp/b_in"], layer["mlp/b_out"]
    model.load_state_dict(found)


def start(shape: Sequence[Any], *, weights: str, texts: str = "", compiled: bool = False) -> Peer:
    """As `tests.bench.peers.ours.start`, from the parameters in a file."""
    shape = Shape(*shape)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("highest" if device == "cpu" else "high")
    model = Decoder(shape)
    load(model, weights)
    model.to(device)
    inputs, targets, *held = (torch.from_numpy(array.copy()).long().to(device) for array in Texts.read(shape, texts))
    decayed = {id(p) for p in model.layers.parameters() if p.ndim > 1}
    if not shape.tied:
        decayed.add(id(model.head.weight))
    groups = [
        {"params": [p for p in model.parameters() if (id(p) in decayed) == decays], "weight_decay": rate}
        for decays, rate in ((True, shapes.DECAY), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=shapes.LEARNING_RATE, betas=shapes.BETAS, eps=shapes.EPS, fused=True)
    loss_of: Any = torch.compile(model) if compiled else model

    count = 0

    def loss_on(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=shape.dtype == "bfloat16"):
            return loss_of(inputs, targets)

    def run(steps: int) -> float:
        nonlocal count
        loss: Any = None
        for _ in range(steps):
            loss = loss_on(inputs[count % len(inputs)], targets[count % len(inputs)])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), shapes.CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            count += 1
        return float(loss.detach())

    @torch.no_grad()
    def valid() -> float:
        return statistics.fmean(float(loss_on(*pair)) for pair in zip(*held, strict=True))

    return Peer(run, valid)


if __name__ == "__main__":
    serve(start)
