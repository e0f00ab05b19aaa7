"""Is a film review (IMDB) positive or negative? A small encoder from random parameters.

make demo-sentiment
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "sentiment"
    config.data.source = "demo,name=sentiment"
    config.data.valid_source = "demo,name=sentiment,split=valid"
    config.data.task = "classification,labels=negative/positive,metrics=accuracy,keep=both"
    config.data.update(vocab_size=8192, seq_len=256, batch_size=32, augment=("token_dropout,rate=0.1",))
    config.model.update(architecture="encoder", classifier="mean,classes=2", num_layers=2, d_model=128, d_mlp=256)
    config.model.update(scan_unroll=2, dropout=0.2)
    config.optimizer.update(name="adamw,b2=0.99", learning_rate=1e-3, weight_decay=0.1)
    config.train.update(steps=1800, eval_every=300, eval_batches=0, checkpoint_every=300, best="accuracy")
    return config
