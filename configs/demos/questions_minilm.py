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
    config.data.update(task="questions,stride=32", seq_len=256, batch_size=12)
    config.model.classifier = "tokens,classes=2"
    config.optimizer.learning_rate = 3e-4
    config.train.update(steps=180, eval_every=180)
    return config
