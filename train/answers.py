"""What a model writes in answer to the examples of an evaluation."""

from typing import Any

from jax.sharding import Mesh

from .samples import check_lengths, write_texts


def write_answers(
    config: Any, params: Any, mesh: Mesh, examples: Any, num_examples: int
) -> tuple[list[str], list[str]]:
    """Has a model answer examples by `config.sample`, a batch of config.data.batch_size at a time.

    Args:
        config: the whole config.
        params: the model's parameters on `mesh`.
        mesh: the mesh.
        examples: rows of an evaluation, `data.examples.Examples` of a task that writes.
        num_examples: how many, from the first.

    Returns:
        The answers and the right ones.

    Raises:
        ValueError: a prompt and its answer are longer than learned positions reach.
    """
    tokenizer, batch_size = examples.setting.tokenizer, config.data.batch_size
    prompts = [examples.prompt(index) for index in range(num_examples)]
    check_lengths(config, [prompt.ids for prompt in prompts])
    by_length = sorted(range(num_examples), key=lambda index: len(prompts[index].ids))  # less padding
    answers = [""] * num_examples
    for first in range(0, num_examples, batch_size):
        batch = by_length[first : first + batch_size]
        *_, texts = write_texts(config, params, mesh, tokenizer, [prompts[index].ids for index in batch])
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers, [prompt.reference for prompt in prompts]
