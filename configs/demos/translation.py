"""German messages of programs into English. A small encoder-decoder from random parameters.

    make demo-translation

Two cores of an Intel Xeon with AVX-512 take 12.1 minutes with the test and reach a BLEU of 29.4 and a chrF of 47.9
on the 1,413 held-out messages. To copy has 10.1 and 24.3, the nearest message's translation 24.3 and 41.7.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "translation"
    config.data.source = "demo,name=translation"
    config.data.valid_source = "demo,name=translation,split=valid"
    config.data.update(task="seq2seq,metrics=bleu/chrf", vocab_size=4096, seq_len=128, batch_size=32)
    config.model.update(architecture="encoder_decoder", num_layers=2, d_model=192, num_heads=4, d_mlp=512, dropout=0.1)
    config.model.update(num_kv_heads=4, scan_unroll=2)
    config.optimizer.update(name="muon,iterations=3,b2=0.98", learning_rate=0.005, weight_decay=0.05)
    config.optimizer.update(schedule="wsd,decay_steps=300,final_fraction=0", warmup_steps=30)
    config.train.update(steps=500, eval_every=500)
    config.sample.update(prompts=("Die Datei konnte nicht gespeichert werden.",), strategy="beam", max_tokens=96)
    return config
