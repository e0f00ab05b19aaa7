"""Is a film review (IMDB) positive or negative? From the weights of MiniLM, an encoder of six layers.

make demo-sentiment_minilm
"""

from ml_collections import ConfigDict

from configs.demos import minilm


def get_config() -> ConfigDict:
    """The config of the run."""
    config = minilm.get_config()
    config.name = "sentiment from MiniLM"
    config.data.source = "demo,name=sentiment"
    config.data.valid_source = "demo,name=sentiment,split=valid"
    config.data.task = "classification,labels=negative/positive,metrics=accuracy,keep=both"
    config.data.update(seq_len=256, batch_size=16)
    config.model.classifier = "mean,classes=2"
    config.train.update(steps=260, eval_every=130)
    return config
