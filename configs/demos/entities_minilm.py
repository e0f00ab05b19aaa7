"""Persons, places, companies and other names in tweets. From the weights of MiniLM, an encoder of six layers.

    make demo-entities_minilm

Two cores of an Intel Xeon with AVX-512 take 7.3 minutes with the test and reach a span F1 of 47.6% on the 489
held-out tweets. Each word's most frequent tag has 25.7%, a linear model 33.3%, and random parameters get to 11.7%.
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
    config.train.update(steps=300, eval_every=50, checkpoint_every=50, best="f1")
    return config
