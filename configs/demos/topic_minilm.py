"""Which of twenty newsgroups is a message from? From the weights of MiniLM, an encoder of six layers.

make demo-topic_minilm
"""

from ml_collections import ConfigDict

from configs.demos import minilm


def get_config() -> ConfigDict:
    """The config of the run."""
    config = minilm.get_config()
    config.name = "topic from MiniLM"
    config.data.source = "demo,name=topic"
    config.data.valid_source = "demo,name=topic,split=valid"
    config.data.update(task="classification", seq_len=128, batch_size=32)
    config.model.classifier = "mean,classes=20"
    config.optimizer.learning_rate = 3e-4
    config.train.update(steps=290, eval_every=145)
    return config
