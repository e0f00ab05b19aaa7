"""Answers to questions about functions, found in their documentation. From the weights of MiniLM.

make demo-questions_minilm
"""

from ml_collections import ConfigDict

from configs.demos import minilm


def get_config() -> ConfigDict:
    """The config of the run."""
    config = minilm.get_config()
    config.name = "questions from MiniLM"
    config.data.source = "demo,name=questions"
    config.data.valid_source = "demo,name=questions,split=valid"
    config.data.update(task="questions,stride=64", seq_len=192, batch_size=16)
    config.model.classifier = "tokens,classes=2"
    config.optimizer.learning_rate = 3e-4
    config.train.update(steps=300, eval_every=300, eval_batches=8)
    return config
