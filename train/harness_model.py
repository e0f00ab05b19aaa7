"""A model of this project as lm-evaluation-harness asks for one, so that its scores are those of its `hf` model.

Importing this needs the extra [harness].
"""

import collections
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from lm_eval import utils  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from tqdm import tqdm

from data import Tokenizer
from model import GREEDY, generate
from parallel import on_mesh, to_host

from .compose import make_model, rules_of
from .likelihood import Pair, batches_of, make_scorer
from .samples import reads_both_ways

MAX_TOKENS = 256  # of tasks that do not say how many


class HarnessModel(TemplateLM):
    """Answers the harness's three kinds of request with a decoder.

    A text begins with what `transformers` puts there by default, which is often bos_id, and the continuation of nothing
    continues bos_id. Text is only text: one that spells a special token does not make its id.

    Args:
        config: the whole config; a batch has `config.data.batch_size` rows.
        params: the model's parameters on `mesh`.
        mesh: the mesh.
        tokenizer: the run's tokenizer.
    """

    def __init__(self, config: Any, params: Any, mesh: Mesh, tokenizer: Tokenizer):
        super().__init__()
        self._config, self._params, self._mesh, self._text = config, params, mesh, tokenizer
        self._score = make_scorer(config, params, mesh)
        self.max_length = make_model(config).config.max_length

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._text.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has nothing before it."""
        return self._text.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, by default between those that `transformers` puts around a text."""
        del kwargs
        before, after = ((), ()) if add_special_tokens is False else self._text.framing
        return [*before, *self._text.encode(string), *after]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        del kwargs
        return self._score([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows that predict each token once."""
        del disable_tqdm
        windows: list[Pair] = []
        ends = []
        for request in requests:
            rolling = utils.get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            windows += [utils.make_disjoint_window(window) for window in rolling]
            ends.append(len(windows))
        scores = [score for score, _ in self._score(windows)]
        return [sum(scores[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The likeliest texts, token by token, up to a stop string.

        Raises:
            ValueError: a task asks for samples, or for as many tokens as the model sees at once.
        """
        groups: dict[str, list[int]] = collections.defaultdict(list)
        for number, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True)].append(number)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm or jax.process_index() > 0) as bar:
            for numbers in groups.values():
                settings: Any = normalize_gen_kwargs(requests[numbers[0]].args[1], MAX_TOKENS)
                num_new = self._check(settings, requests[numbers[0]])
                prompts = [self.tok_encode(requests[number].args[0]) for number in numbers]
                prompts = [(ids or [self.prefix_token_id])[num_new - self.max_length :] for ids in prompts]
                for rows, length in batches_of([len(ids) for ids in prompts], self._config, self._mesh):
                    length = min(length, self.max_length - num_new)
                    for row, ids in zip(
                        rows, self._continue([prompts[row] for row in rows], length, num_new), strict=True
                    ):
                        text = self._text.decode(ids)
                        texts[numbers[row]] = postprocess_generated_text(text, settings["until"], None)
                    bar.update(len(rows))
        return texts

    def _check(self, settings: dict[str, Any], request: Any) -> int:
        """The number of tokens to generate."""
        name, num_new = request.task_name, settings["max_gen_toks"]
        if settings["do_sample"]:
            raise ValueError(f"--harness: {name} draws samples, do_sample=True; only likeliest texts are generated")
        if not 0 < num_new < self.max_length:
            raise ValueError(
                f"--harness: {name} asks for max_gen_toks={num_new}, which must leave room for a prompt in the "
                f"{self.max_length} tokens that the model sees (config.model.max_length, or config.data.seq_len)"
            )
        return num_new

    def _continue(self, prompts: list[list[int]], length: int, num_new: int) -> list[list[int]]:
        """The likeliest next tokens of each prompt, up to the one that ends a text."""
        B, eos = self._config.data.batch_size, self.eot_token_id
        prompt_BP = np.full((B, length), self._text.pad_id, np.int32)
        prompt_BP[:, 0] = self.prefix_token_id  # rows that fill the batch up
        for row, ids in zip(prompt_BP, prompts, strict=False):
            row[: len(ids)] = ids
        lengths_B = np.array([len(ids) for ids in prompts] + [1] * (B - len(prompts)), np.int32)
        tokens_BG = on_mesh(generate, self._mesh, rules_of(self._config))(
            make_model(self._config),
            self._params,
            prompt_BP,
            lengths_B,
            jax.random.key(0),
            max_tokens=num_new,
            sampling=GREEDY,
            eos_id=eos,
            both_ways=reads_both_ways(self._config),
        )
        tokens_BG = jax.device_put(tokens_BG, NamedSharding(self._mesh, PartitionSpec()))
        rows = [row.tolist() for row in to_host(tokens_BG)[: len(prompts)]]
        return [row[: row.index(eos)] if eos in row else row for row in rows]
