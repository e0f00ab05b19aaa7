"""How likely a model holds continuations of contexts, token lists in and numbers out.

Each figure is that of its pair alone, whatever else is in the batch and however the mesh divides it.

Letters: B rows, T length, V vocab.
"""

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from parallel import compiler_options, local_rows, on_mesh, shard_batch, to_host

from .compose import make_model, rules_of
from .objective import cross_entropy
from .samples import reads_both_ways

Pair = tuple[Sequence[int], Sequence[int]]
SHORTEST = 16


def make_scorer(config: Any, params: Any, mesh: Mesh) -> Callable[[Sequence[Pair]], list[tuple[float, bool]]]:
    """Builds the function from pairs of token ids, context and continuation, to what a decoder says of each.

    A context that is too long for the model loses its first tokens; a model of task prefix_lm reads it both ways. Rows
    are padded to a few lengths, each of which is compiled once.

    Args:
        config: the whole config; a batch has `config.data.batch_size` rows.
        params: the model's parameters on `mesh`.
        mesh: the mesh.

    Returns:
        pairs -> for each the log-likelihood of its continuation in nats, and whether each token of it is the likeliest;
        it raises ValueError if a continuation is longer than the model sees.

    Raises:
        ValueError: the mesh does not divide the batch.

    Example:
        make_scorer(config, params, mesh)([([1, 17], [4, 9])])  # [(-5.2, False)]
    """
    model, rows = make_model(config, mesh), local_rows(mesh, config.data.batch_size)
    apply_fn: Callable[..., Any] = model.apply
    longest, both_ways = model.config.max_length, reads_both_ways(config)

    def step(params: Any, batch: dict[str, Array]) -> tuple[Array, Array]:
        where = {"positions_BT": batch["positions"], "segment_ids_BT": batch["segment_ids"]}
        where |= {"order_BT": batch["order"]} if both_ways else {}
        logits_BTV = apply_fn({"params": params}, batch["inputs"], **where)
        nll_BT, _ = cross_entropy(logits_BTV, batch["targets"])
        likeliest_BT = jnp.argmax(logits_BTV, axis=-1) == batch["targets"]
        return nll_BT * batch["weights"], jnp.all(likeliest_BT | (batch["weights"] == 0), axis=1)

    everywhere = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(step, out_shardings=everywhere, compiler_options=compiler_options(mesh))
    step = on_mesh(jitted, mesh, rules_of(config))

    def score(pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        scores: dict[int, tuple[float, bool]] = {}

        def finish(numbers: list[int], outputs: tuple[Array, Array]) -> None:
            for number, nll_T, likeliest in zip(numbers, *to_host(outputs), strict=False):  # the rest is filled up
                scores[number] = (-math.fsum(nll_T.tolist()), bool(likeliest))

        kept = [_keep(pair, longest) for pair in pairs]
        pending: tuple[Any, ...] = ()
        for numbers, length in batches_of([len(tokens) - 1 for tokens, _ in kept], config, mesh):
            batch = _make_batch([kept[number] for number in numbers], config.data.batch_size, length)
            outputs = step(params, shard_batch({name: array[rows] for name, array in batch.items()}, mesh))
            if pending:
                finish(*pending)  # the batch before, while this one is computed
            pending = (numbers, outputs)
        if pending:
            finish(*pending)
        return [scores[number] for number in range(len(pairs))]

    return score


def batches_of(lengths: Sequence[int], config: Any, mesh: Mesh) -> Iterator[tuple[list[int], int]]:
    """Puts rows of similar length into batches.

    Args:
        lengths: of each row, in tokens.
        config: the whole config.
        mesh: the mesh, which divides the lengths that are chosen.

    Yields:
        The numbers of at most `config.data.batch_size` rows, and the length for all of them: a power of two times what
        the mesh divides, the longest first, so that a lack of memory shows at once.
    """
    parts = math.prod(mesh.shape[axis] for axis in dict(rules_of(config))["residual_length"])
    unit = math.lcm(parts, 2 * mesh.shape["context"])
    shortest = unit * math.ceil(SHORTEST / unit)
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for number, length in enumerate(lengths):
        groups[shortest * 2 ** max(0, math.ceil(math.log2(max(length, 1) / shortest)))].append(number)
    for length, numbers in sorted(groups.items(), reverse=True):
        for first in range(0, len(numbers), config.data.batch_size):
            yield numbers[first : first + config.data.batch_size], length


def _keep(pair: Pair, longest: int) -> tuple[list[int], int]:
    """The tokens of a pair that the model can see, and how many of them continue the context."""
    context, continuation = pair
    if len(continuation) > longest:
        raise ValueError(
            f"a continuation of {len(continuation)} tokens is longer than the {longest} that the model sees at once "
            "(config.model.max_length, or config.data.seq_len)"
        )
    assert context, "something must come before the first token"
    return [*context, *continuation][-longest - 1 :], len(continuation)


def _make_batch(rows: list[tuple[list[int], int]], num_rows: int, length: int) -> dict[str, np.ndarray]:
    """Rows padded on the right; what fills the batch up is one token and counts nothing.

    "order" is 0 in a context and counts on from there, as of a prefix that `data.tasks.prefix` makes.
    """
    kinds = dict.fromkeys(("inputs", "targets", "positions", "segment_ids", "order"), np.int32)
    batch = {name: np.zeros((num_rows, length), kind) for name, kind in (kinds | {"weights": np.float32}).items()}
    batch["segment_ids"][:, 0] = 1
    for row, (tokens, num_counted) in enumerate(rows):
        T = len(tokens) - 1
        batch["inputs"][row, :T], batch["targets"][row, :T] = tokens[:-1], tokens[1:]
        batch["positions"][row, :T], batch["segment_ids"][row, :T] = np.arange(T), 1
        batch["order"][row, :T] = np.maximum(np.arange(T) - (T - num_counted), 0)
        batch["weights"][row, T - num_counted : T] = 1
    return batch
