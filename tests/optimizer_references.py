"""Optimizers by their published equations: NumPy in float64 on one matrix or vector, or Optax's own.

Two depart from the paper, as `train/optimizer.py` says: SOAP's first eigenvectors, and where schedule-free corrects its
second moment.

tests/test_optimizer.py holds ours to them, tests/bench/optimizers.py writes the measured errors to docs/.

Letters: w parameter, g gradient, m mean of gradients, v mean of their squares, r learning rate, d weight decay.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.linalg import qr
from optax.contrib import muon

Array = np.ndarray
RATE, DECAY = 0.02, 0.3
# (w, gradients, whether it is a hidden matrix) -> w after all of them; `w` is a matrix (inputs, outputs) or a vector.
Reference = Callable[..., Array]


def sgd(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """Momentum 0.8; weight decay as a part of the gradient."""
    m = np.zeros_like(w)
    for t, g in enumerate(gradients):
        m = 0.8 * m + (g + d * w)
        w = w - r[t] * m
    return w


def rmsprop(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """Decay 0.9, momentum 0.5, eps 1e-3."""
    v, m = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients):
        g = g + d * w
        v = 0.9 * v + 0.1 * g**2
        m = 0.5 * m + g / (np.sqrt(v) + 1e-3)
        w = w - r[t] * m
    return w


def adam_direction(gradients: Sequence[Array], t: int, b1: float, b2: float, eps: float) -> Array:
    """Kingma and Ba 2015, algorithm 1, with the means written out as sums."""
    weights = lambda b: [(1 - b) * b ** (t - i) for i in range(t + 1)]
    m = sum(a * g for a, g in zip(weights(b1), gradients, strict=False)) / (1 - b1 ** (t + 1))
    v = sum(a * g**2 for a, g in zip(weights(b2), gradients, strict=False)) / (1 - b2 ** (t + 1))
    return m / (np.sqrt(v) + eps)


def adam(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """b1 0.8, b2 0.9, eps 1e-3; weight decay as a part of the gradient."""
    seen = []
    for t, g in enumerate(gradients):
        seen.append(g + d * w)
        w = w - r[t] * adam_direction(seen, t, 0.8, 0.9, 1e-3)
    return w


def adamw(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool, eps: float = 1e-3) -> Array:
    """The same, weights decaying beside it."""
    for t in range(len(gradients)):
        w = w - r[t] * (adam_direction(gradients, t, 0.8, 0.9, eps) + d * w)
    return w


def cautious_adamw(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """Chen et al. 2025, arXiv:2510.12402: only where the step goes towards zero too."""
    for t in range(len(gradients)):
        u = adam_direction(gradients, t, 0.8, 0.9, 1e-3)
        w = np.where(np.sign(u) * np.sign(w) >= 0, w - r[t] * (u + d * w), w - r[t] * u)
    return w


def lamb(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """You et al. 2020, algorithm 2, with phi(x) = x."""
    for t in range(len(gradients)):
        u = adam_direction(gradients, t, 0.8, 0.9, 1e-3) + d * w
        w = w - r[t] * u * np.linalg.norm(w) / np.linalg.norm(u)
    return w


def lion(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """Chen et al. 2023, algorithm 2, b1 0.8, b2 0.9."""
    m = np.zeros_like(w)
    for t, g in enumerate(gradients):
        w, m = w - r[t] * (np.sign(0.8 * m + 0.2 * g) + d * w), 0.9 * m + 0.1 * g
    return w


def adafactor(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """Shazeer and Stern 2018, algorithms 4 and 5, with weight decay times the learning rate."""
    rows, columns, v = 0.0, 0.0, 0.0
    for t, g in enumerate(gradients):
        b = 1 - (t + 1) ** -0.8
        if w.ndim == 2:
            rows = b * rows + (1 - b) * np.sum(g**2 + 1e-30, 1)
            columns = b * columns + (1 - b) * np.sum(g**2 + 1e-30, 0)
            u = g / np.sqrt(np.outer(rows, columns) / np.sum(rows))
        else:
            v = b * v + (1 - b) * (g**2 + 1e-30)
            u = g / np.sqrt(v)
        u = u / max(1, np.sqrt(np.mean(u**2)))
        w = w - r[t] * (max(1e-3, np.sqrt(np.mean(w**2))) * u + d * w)
    return w


def muon_of_optax(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """Optax's, on one matrix, and Adam without decay on what is none that is hidden."""
    if not hidden:
        return adamw(w, gradients, r, 0.0, hidden)
    rates = lambda count: jnp.asarray(0.5 * r, jnp.float32)[count]
    optimizer = muon(rates, beta=0.9, weight_decay=d, eps=1e-3)
    params = jnp.asarray(w, jnp.float32)
    state = optimizer.init(params)
    for g in gradients:
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


def soap(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool, largest: int = 100) -> Array:
    """Vyas et al. 2024, algorithms 3 and 4, eps 0.1, the eigenvectors refined every other update."""
    if not hidden:
        return adamw(w, gradients, r, d, hidden, eps=0.1)
    (first, *rest) = gradients
    left, right = 0.1 * first @ first.T, 0.1 * first.T @ first
    q_left, q_right = np.eye(len(left)), np.eye(len(right))
    refine = lambda square, q: qr(square @ q)[0] if len(q) <= largest else q
    for _ in range(10):
        q_left, q_right = refine(left, q_left), refine(right, q_right)
    w = w - r[0] * d * w
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(rest, 1):
        rotated = q_left.T @ g @ q_right
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * rotated**2
        n = q_left.T @ (m / (1 - 0.8**t)) @ q_right / (np.sqrt(v / (1 - 0.9**t)) + 0.1)
        w = w - r[t] * (q_left @ n @ q_right.T + d * w)
        left, right = 0.9 * left + 0.1 * g @ g.T, 0.9 * right + 0.1 * g.T @ g
        if t % 2 == 0:
            q_left, q_right = refine(left, q_left), refine(right, q_right)
    return w


def schedule_free(w: Array, gradients: Sequence[Array], r: Array, d: float, hidden: bool) -> Array:
    """Defazio et al. 2024, algorithm 1: w is y, of which gradient and decay are."""
    x, z, v, total = w, w, np.zeros_like(w), 0.0
    for t, g in enumerate(gradients):
        y = 0.2 * z + 0.8 * x
        v = 0.9 * v + 0.1 * g**2
        z = z - r[t] * (g / (np.sqrt(v / (1 - 0.9 ** (t + 1))) + 1e-3) + d * y)
        total += max(r[: t + 1]) ** 2
        share = max(r[: t + 1]) ** 2 / total
        x = (1 - share) * x + share * z
    return 0.2 * z + 0.8 * x


ADAM = "b1=0.8,b2=0.9,eps=1e-3"
# What `config.optimizer.name` says -> its reference.
REFERENCES: dict[str, Reference] = {
    "sgd,momentum=0.8": sgd,
    "rmsprop,decay=0.9,momentum=0.5,eps=1e-3": rmsprop,
    f"adam,{ADAM}": adam,
    f"adamw,{ADAM}": adamw,
    f"adamw,{ADAM},cautious=true": cautious_adamw,
    f"lamb,{ADAM}": lamb,
    "adafactor": adafactor,
    "lion,b1=0.8,b2=0.9": lion,
    f"muon,learning_rate=0.01,momentum=0.9,{ADAM}": muon_of_optax,
    "soap,every=2,b1=0.8,b2=0.9,eps=0.1": soap,  # far above what rounding leaves where there is no gradient
    "soap,every=2,b1=0.8,b2=0.9,eps=0.1,largest=8": functools.partial(soap, largest=8),
    f"schedule_free,{ADAM}": schedule_free,
}


class Kind(NamedTuple):
    """A kind of parameter of the tests' tree.

    Attributes:
        shape: of the parameter.
        one: of one layer of it, as a matrix (inputs, outputs) or as a vector; a stack has more of them.
        decays: whether weights decay.
        hidden: whether Muon and SOAP treat it as a matrix.
    """

    shape: tuple[int, ...]
    one: tuple[int, ...]
    decays: bool
    hidden: bool


TREE = {
    "embedding": Kind((6, 8), (6, 8), False, False),
    "final_norm/scale": Kind((8,), (8,), False, False),
    "layers/attention/b_q": Kind((3, 2, 4), (8,), False, False),
    "layers/attention/w_q": Kind((3, 8, 2, 4), (8, 8), True, True),
    "layers/attention/w_out": Kind((3, 2, 4, 8), (8, 8), True, True),
    "layers/attention_norm/scale": Kind((3, 8), (8,), False, False),
    "layers/mlp/w_in": Kind((3, 8, 16), (8, 16), True, True),
    "layers/mlp/w_out": Kind((3, 16, 8), (16, 8), True, True),
    "layers/moe/w_in": Kind((3, 2, 8, 6), (8, 6), True, True),
    "head": Kind((6, 8), (6, 8), True, False),
}


def error_of(make_optimizer: Callable[[Any], Any], config: Any, name: str, num_steps: int = 6) -> float:
    """How far ours ends from the reference: the largest norm of a difference over the norm of what was learned.

    Args:
        make_optimizer: of `train.optimizer`.
        config: any; its optimizer is replaced.
        name: a key of `REFERENCES`.
        num_steps: two of them are warmup.
    """
    config.optimizer.update(name=name, learning_rate=RATE, weight_decay=DECAY, clip_norm=0.0, schedule="constant")
    config.optimizer.warmup_steps = 2
    rates = RATE * np.array([0.5] + [1.0] * (num_steps - 1))
    rng = np.random.default_rng(0)
    first = {key: rng.standard_normal(kind.shape).astype(np.float32) for key, kind in TREE.items()}
    drawn = {key: draw_gradients(rng, kind, num_steps) for key, kind in TREE.items()}
    gradients = [{key: drawn[key][t] for key in TREE} for t in range(num_steps)]
    optimizer = make_optimizer(config)
    params = nest(first)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for grads in gradients:
        updates, state = update(nest(grads), state, params)
        params = optax.apply_updates(params, updates)
    errors = []
    for key, kind in TREE.items():
        layers = lambda array, kind=kind: array.astype(np.float64).reshape(-1, *kind.one)
        ours = layers(np.asarray(at(params, key)))
        for i, w in enumerate(layers(first[key])):
            of_layer = [layers(grads[key])[i] for grads in gradients]
            expected = REFERENCES[name](w, of_layer, rates, DECAY if kind.decays else 0.0, kind.hidden)
            errors.append(np.linalg.norm(ours[i] - expected) / np.linalg.norm(expected - w))
    return float(max(errors))


def draw_gradients(rng: np.random.Generator, kind: Kind, number: int) -> list[Array]:
    """Random gradients; those of a matrix that is not square have the directions of the first one.

    SOAP rotates the others as rounding has it: they have no eigenvalues.
    """
    first = rng.standard_normal((int(np.prod(kind.shape)) // int(np.prod(kind.one)), *kind.one))
    drawn = [first]
    for _ in range(number - 1):
        if len(kind.one) == 1 or kind.one[0] == kind.one[1]:
            drawn.append(rng.standard_normal(first.shape))
        elif kind.one[0] < kind.one[1]:
            drawn.append(rng.standard_normal((len(first), kind.one[0], kind.one[0])) @ first)
        else:
            drawn.append(first @ rng.standard_normal((len(first), kind.one[1], kind.one[1])))
    return [g.reshape(kind.shape).astype(np.float32) for g in drawn]


def nest(flat: dict[str, Any]) -> Any:
    """A tree of "a/b" names."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = jnp.asarray(leaf)
    return tree


def at(tree: Any, name: str) -> Any:
    """The leaf of an "a/b" name."""
    for key in name.split("/"):
        tree = tree[key]
    return tree
