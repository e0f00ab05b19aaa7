"""Persons, places, companies and other names in tweets. From the weights of MiniLM, an encoder of six layers.

make demo-entities_minilm
"""

from ml_collections import ConfigDict

from configs.demos import minilm


def get_config() -> ConfigDict:
    """The config of the run."""
    config = minilm.get_config()
    config.name = "entities from MiniLM"
    config.data.source = "demo,name=entities"
    config.data.valid_source = "demo,name=entities,split=valid"
    config.data.update(task="tags", seq_len=128, batch_size=8)
    config.model.update(classifier="tokens,classes=21", dropout=0.1)
    config.optimizer.update(learning_rate=3e-4, layer_decay=0.9)
    config.train.update(steps=700, eval_every=100, checkpoint_every=100, best="f1")
    return config
