"""Sentiment of film reviews (IMDB), positive or negative, from random parameters."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "sentiment"
    config.data.source = "demo,name=sentiment"
    config.data.valid_source = "demo,name=sentiment,split=valid"
    config.data.update(task="classification,labels=negative/positive", seq_len=256, batch_size=16)
    config.model.update(architecture="encoder", classifier="mean,classes=2")
    return config
