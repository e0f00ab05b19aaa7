"""A Python function into the first sentence of its docstring. A small encoder-decoder from random parameters.

make demo-summarisation
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "summarisation"
    config.data.source = "demo,name=summarisation"
    config.data.valid_source = "demo,name=summarisation,split=valid"
    config.data.task = "seq2seq,source_length=192,metrics=rouge"
    config.data.update(vocab_size=4096, seq_len=32, batch_size=32)
    config.model.update(architecture="encoder_decoder", num_layers=2, d_model=192, num_heads=4, d_mlp=512, dropout=0.1)
    config.model.update(num_kv_heads=4, scan_unroll=2)
    config.optimizer.update(name="adamw,b2=0.98", learning_rate=2e-3, weight_decay=0.05)
    config.train.update(steps=1500, eval_every=500)
    config.sample.update(prompts=("def add(a, b):\n    return a + b\n",), strategy="beam", max_tokens=32)
    return config
