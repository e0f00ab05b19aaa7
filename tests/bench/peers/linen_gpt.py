"""A GPT-2 in Flax Linen as its own language model example is built, as a worker (tests/bench/peers/turns.py).

Linen's layers and attention, a mask, Optax, one jitted step over a TrainState. It starts from Palmette's parameters, so
both must have the same losses.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, path_aware_map, unflatten_dict

from tests.bench.peers import shapes
from tests.bench.peers.shapes import Shape, Texts
from tests.bench.peers.turns import Peer, serve


class Layer(nn.Module):
    """A block with its norms first."""

    shape: Shape

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(rows, length, width) to the same."""
        shape, dtype = self.shape, jnp.dtype(self.shape.dtype)
        y = nn.LayerNorm(1e-5, dtype=dtype, name="attention_norm")(x)
        x = x + nn.MultiHeadDotProductAttention(shape.heads, dtype=dtype, name="attention")(y, mask=mask)
        y = nn.LayerNorm(1e-5, dtype=dtype, name="mlp_norm")(x)
        y = nn.gelu(nn.Dense(shape.hidden, dtype=dtype, name="up")(y))
        return x + nn.Dense(shape.width, dtype=dtype, name="down")(y)


class Decoder(nn.Module):
    """Logits of (rows, length) ids, in float32."""

    shape: Shape

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape, dtype = self.shape, jnp.dtype(self.shape.dtype)
        embedding = nn.Embed(shape.vocab, shape.width, dtype=dtype, name="embedding")
        positions = nn.Embed(shape.length, shape.width, dtype=dtype, name="positions")
        x = embedding(inputs) + positions(jnp.arange(shape.length))
        mask = nn.make_causal_mask(inputs)
        for i in range(shape.layers):
            x = Layer(shape, name=f"layer_{i}")(x, mask)
        x = nn.LayerNorm(1e-5, dtype=dtype, name="final_norm")(x)
        return embedding.attend(x).astype(jnp.float32)


def load(ours: Mapping[str, np.ndarray], layers: int) -> Any:
    """Palmette's parameters."""
    names = {"attention/w_out": "attention/out/kernel", "attention/b_out": "attention/out/bias"}
    for part, whole in {"q": "query", "k": "key", "v": "value"}.items():
        names |= {f"attention/w_{part}": f"attention/{whole}/kernel", f"attention/b_{part}": f"attention/{whole}/bias"}
    for part, whole in {"in": "up", "out": "down"}.items():
        names |= {f"mlp/w_{part}": f"{whole}/kernel", f"mlp/b_{part}": f"{whole}/bias"}
    found = {f"{name}/embedding": ours[name] for name in ("embedding", "positions")}
    for name, array in ours.items():
        if name.startswith("layers/"):
            inner = name.removeprefix("layers/")
            found |= {f"layer_{i}/{names.get(inner, inner)}": array[i] for i in range(layers)}
        elif name.startswith("final_norm/"):
            found[name] = array
    return unflatten_dict({name: jnp.asarray(array) for name, array in found.items()}, sep="/")


def start(shape: Sequence[Any], *, weights: str, texts: str = "") -> Peer:
    """As `tests.bench.peers.ours.start`, from the parameters in a file.

    Raises:
        ValueError: the shape is not a GPT-2.
    """
    shape = Shape(*shape)
    if shape.style != "gpt2" or not shape.tied:
        raise ValueError(f"only a GPT-2 is written in Linen here, not {shape}")
    model = Decoder(shape)
    optimizer = optax.chain(
        optax.clip_by_global_norm(shapes.CLIP),
        optax.adamw(
            shapes.LEARNING_RATE,
            *shapes.BETAS,
            eps=shapes.EPS,
            weight_decay=shapes.DECAY,
            mask=lambda params: path_aware_map(lambda path, _: path[-1] == "kernel", params),
        ),
    )
    params = load(np.load(weights), shape.layers)
    expected = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, shape.length), np.int32))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected), flatten_dict(params).keys()
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    read, count = Texts.read(shape, texts), 0

    def loss_of(params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def step(state: TrainState, inputs: jax.Array, targets: jax.Array) -> tuple[TrainState, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_of)(state.params, inputs, targets)
        return state.apply_gradients(grads=gradients), loss

    make_step, evaluate = jax.jit(step, donate_argnums=0), jax.jit(loss_of)

    def run(steps: int) -> float:
        nonlocal state, count
        loss: Any = None
        for _ in range(steps):
            i = count % len(read.inputs)
            state, loss = make_step(state, read.inputs[i], read.targets[i])
            count += 1
        return float(loss)

    def valid() -> float:
        held = zip(read.valid_inputs, read.valid_targets, strict=True)
        return statistics.fmean(float(evaluate(state.params, *pair)) for pair in held)

    return Peer(run, valid)


if __name__ == "__main__":
    serve(start)
