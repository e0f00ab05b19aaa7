"""Text from a trained model.

Letters: B rows, P prompt length, S length of the encoder's input, G room for generated tokens, V vocab.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data import DataConfig, Tokenizer, make_task
from data.tasks import Setting
from data.tokenizer import ESCAPE
from model import Beams, advance, beam_search, begin, row_keys
from parallel import BATCH_AXES, on_mesh, to_host

from .compose import make_model, rules_of
from .objective import objective_name
from .strategy import make_strategy
from .workdir import IMPORTED

SMALLEST = 16  # lengths and room are rounded up to powers of two from here on, so that few programs are compiled
LOOK_EVERY = 16  # tokens between two looks for a stop string, where nobody waits for the text


def writes(config: Any) -> bool:
    """Whether the config's model is one that writes text, and is trained to."""
    return _can_write(config.model) and objective_name(config) == "tokens"


def _can_write(model: Any) -> bool:
    return model.architecture.startswith("encoder_decoder") or (model.architecture == "decoder" and not model.image)


def check_writes(config: Any) -> None:
    """Checks that the config's model writes text.

    Raises:
        ValueError: it does not; it names the key.
    """
    model = config.model
    if _can_write(model):
        return
    key = "image" if model.image else "architecture"
    raise ValueError(
        f"a model with config.model.{key}={model[key]!r} does not write text; that takes one with "
        "config.model.architecture='decoder' or 'encoder_decoder', and config.model.image=''"
    )


def reads_apart(config: Any) -> bool:
    """Whether the prompt goes into an encoder, instead of being the beginning of the text."""
    return config.model.architecture.startswith("encoder_decoder")


def reads_both_ways(config: Any) -> bool:
    """Whether the tokens of a prompt see one another, as the task has trained the model to read it."""
    return getattr(make_task(DataConfig.of(config.data)), "reads_both_ways", False)


def reach(config: Any) -> int:
    """Tokens that the model was made for: of a prompt and its continuation, or of either in an encoder-decoder."""
    return config.model.max_length or config.data.seq_len


def check_prompts(config: Any, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Encodes prompts as the config's task does, if it is one of writing answers.

    Else they are the beginnings of documents; for an encoder-decoder, whole ones. Where a tokenizer has no beginning of
    its own, as T5's, only the end is put around those.

    Raises:
        ValueError: prompt and continuation are longer than learned positions reach.
    """
    data = DataConfig.of(config.data)
    task: Any = make_task(data)
    if hasattr(task, "ask"):
        ids = [task.prompt(task.ask(prompt), Setting(tokenizer, data)).ids for prompt in prompts]
    else:
        first, last = [tokenizer.bos_id], []
        if reads_apart(config):
            first, last = [i for i in first if i != tokenizer.eos_id], [tokenizer.eos_id]
        ids = [[*first, *tokenizer.encode(prompt), *last] for prompt in prompts]
    check_lengths(config, ids)
    return ids


def check_lengths(config: Any, ids: Sequence[Sequence[int]]) -> None:
    """Checks that token ids and their continuation have positions.

    Raises:
        ValueError: they are longer than learned positions reach.
    """
    longest, s = max(map(len, ids)), config.sample
    key = f"config.model.max_length={reach(config)}"
    if not config.model.max_length:
        key = f"config.data.seq_len={reach(config)}"
    room = reach(config) - (1 if reads_apart(config) else longest)
    if config.model.position.startswith("learned") and (longest > reach(config) or s.max_tokens > room):
        raise ValueError(
            f"a prompt of {longest} tokens and config.sample.max_tokens={s.max_tokens} do not fit the "
            f"{key} learned positions; use at most config.sample.max_tokens={max(0, room)}"
        )


def decoder_start_id(config: Any, tokenizer: Tokenizer, workdir: epath.PathLike | None = None) -> int:
    """The token that an encoder-decoder's decoder begins with.

    That is what the config's task says, or what `train.convert` noted of the imported model in `workdir` or, of a run,
    in `config.init_from`; BART, for one, begins with its end. Without either it is the padding, as in T5 and Marian.
    """
    task: Any = make_task(DataConfig.of(config.data))
    if hasattr(task, "start"):
        return getattr(tokenizer, f"{task.start}_id")
    for directory in filter(None, (workdir, config.init_from)):
        path = epath.Path(directory).expanduser() / IMPORTED
        if path.exists():
            noted = json.loads(path.read_text())["token_ids"].get("decoder_start_token_id")
            if noted is not None:
                return noted
    return tokenizer.pad_id


def continue_prompts(config: Any, params: Any, mesh: Mesh, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[str]:
    """Continues each prompt, as the beginning of a document, by `config.sample`; an encoder-decoder reads it whole.

    Args:
        config: the whole config.
        params: the model's parameters on `mesh`.
        mesh: the mesh.
        tokenizer: the run's tokenizer.
        prompts: texts; they may be empty.

    Returns:
        The texts that follow the prompts, or that an encoder-decoder answers them with.

    Raises:
        ValueError: prompt and continuation are longer than learned positions reach.
    """
    ids = check_prompts(config, tokenizer, prompts)
    *_, texts = write_texts(config, params, mesh, tokenizer, ids)
    return texts


def write_texts(
    config: Any,
    params: Any,
    mesh: Mesh,
    tokenizer: Tokenizer,
    ids: Sequence[Sequence[int]],
    *,
    every: int = 0,
    start_id: int | None = None,
) -> Iterator[list[str]]:
    """Writes by `config.sample` what follows token ids, and shows it in between.

    Row i draws its tokens with keys that follow from `config.seed` and i alone. Beams are shown when they are whole,
    and cut at a stop string then.

    Args:
        config: see `continue_prompts`, as for the next three.
        params: see there.
        mesh: see there.
        tokenizer: see there.
        ids: token ids of each row, of `check_prompts`; an encoder-decoder's encoder reads them.
        every: tokens of each row from one look to the next; 0 is as few looks as will do. It changes no text.
        start_id: what an encoder-decoder's decoder begins with; None is `decoder_start_id`.

    Yields:
        The text of each row so far, in whole characters; it is the beginning of all that come after. The last are
        whole.
    """
    strategy, s = make_strategy(config), config.sample
    model, eos_id = make_model(config), tokenizer.eos_id
    if reads_apart(config):
        start_id = decoder_start_id(config, tokenizer) if start_id is None else start_id
        before: Sequence[Sequence[int]] = [[start_id]] * len(ids)
        encoder_tokens_BS, encoder_lengths_B = pad_rows(ids, mesh, tokenizer.pad_id)
        prompt_BP, lengths_B = np.full((len(encoder_lengths_B), 1), start_id, np.int32), np.sign(encoder_lengths_B)
        memory = {"encoder_tokens_BS": encoder_tokens_BS, "encoder_lengths_B": encoder_lengths_B}
    else:
        before, memory = ids, {"both_ways": reads_both_ways(config)}
        prompt_BP, lengths_B = pad_rows(ids, mesh, tokenizer.pad_id)
    room, rules = round_up(s.max_tokens), rules_of(config)
    looks = [Look(tokenizer, prompt, s.stop) for prompt in before]

    if isinstance(strategy, Beams):
        found_BNG, _ = on_mesh(beam_search, mesh, rules)(
            model, params, prompt_BP, lengths_B, s.max_tokens, room=room, beams=strategy, eos_id=eos_id, **memory
        )
        found_BG = _fetch(found_BNG[:, 0], mesh)[:, : s.max_tokens]
        yield [look(row, is_last=True) for look, row in zip(looks, found_BG, strict=False)]
        return
    how = {"sampling": strategy, "eos_id": eos_id}
    keys_B = row_keys(jax.random.key(config.seed), len(lengths_B))
    state = on_mesh(begin, mesh, rules)(model, params, prompt_BP, lengths_B, keys_B, room=room, **how, **memory)
    every = every or (LOOK_EVERY if s.stop else s.max_tokens)
    while True:
        tokens_BG, ended_B, count = _fetch((state.tokens_BG, state.ended_B, state.count), mesh)
        rows = zip(looks, tokens_BG[:, :count], ended_B | (count >= s.max_tokens), strict=False)
        yield [look(row, is_last=bool(is_last)) for look, row, is_last in rows]
        if all(look.is_over for look in looks):
            return
        state = on_mesh(advance, mesh, rules)(model, params, state, min(int(count) + every, s.max_tokens), **how)


def _fetch(arrays: Any, mesh: Mesh) -> Any:
    return to_host(jax.device_put(arrays, NamedSharding(mesh, PartitionSpec())))


def round_up(size: int) -> int:
    """The smallest power of two that is not below a size, nor below `SMALLEST`."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


def pad_rows(ids: Sequence[Sequence[int]], mesh: Mesh, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids as an array (B, P) of one of a few shapes, and the lengths (B,), which are 0 in rows that fill it up.

    The mesh divides the number of rows.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    num_rows = math.ceil((1 << (len(ids) - 1).bit_length()) / parts) * parts
    tokens_BP = np.full((num_rows, round_up(max(map(len, ids)))), pad_id, np.int32)
    lengths_B = np.zeros(num_rows, np.int32)
    for row, of_row in enumerate(ids):
        tokens_BP[row, : len(of_row)] = of_row
        lengths_B[row] = len(of_row)
    return tokens_BP, lengths_B


class Look:
    """The text of one row as its tokens grow.

    Attributes:
        text: as much of it as later tokens cannot change.
        is_over: whether it is whole.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], stops: Sequence[str]):
        self._tokenizer, self._before, self._stops = tokenizer, before, stops
        self.text, self.is_over = "", False

    def __call__(self, ids: np.ndarray, *, is_last: bool) -> str:
        """Takes all tokens so far; `is_last` tells that no more will come."""
        if not self.is_over:
            text = following(self._tokenizer, list(self._before), ids)
            # The bytes of a character may be in several tokens; until the last they are U+FFFD. ESCAPE is half of one.
            text = text if is_last else text.rstrip("\ufffd" + ESCAPE)
            self.text, is_stopped = cut_at_stop(text, self._stops, is_last=is_last)
            self.is_over = is_stopped or is_last
        return self.text


def cut_at_stop(text: str, stops: Sequence[str], *, is_last: bool) -> tuple[str, bool]:
    """Cuts a text before the first stop string, and tells whether there is one.

    The one that ends first counts, so that it does not matter how much text comes at once. If the text is not the
    last, what may be the beginning of a stop string is held back as well.
    """
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    if ends:
        return text[: min(ends)[1]], True
    if is_last:
        return text, False
    held = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return text[: len(text) - max(held, default=0)], False


def following(tokenizer: Tokenizer, prompt: list[int], ids: np.ndarray) -> str:
    """The text that ids add to a prompt: by themselves some tokenizers would lose the space before them."""
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(ids)


def pieces(texts: Iterator[list[str]], row: int = 0) -> Iterator[str]:
    """What each look adds to the text of a row."""
    shown = ""
    for shown_next in texts:
        if shown_next[row] != shown:
            yield shown_next[row][len(shown) :]
        shown = shown_next[row]


Writer = Callable[[Sequence[int]], Iterator[str]]  # token ids -> what follows them, piece by piece
