"""Chats about Python's standard library. The model of configs/tiny.py, from its run in runs/tiny (make train).

    make train demo-instructions

Two cores of an Intel Xeon with AVX-512 take 8.5 minutes with the test and reach a ROUGE-L of 27.8 on the 659 held-out
chats. To repeat what was asked has 9.6, the answer to the nearest chat 25.1.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    """The config of the run."""
    config = tiny.get_config()
    config.name = "instructions"
    config.init_from = "runs/tiny"
    config.data.source = "demo,name=instructions"
    config.data.valid_source = "demo,name=instructions,split=valid"
    config.data.update(task="sft,metrics=rouge", seq_len=256, batch_size=16)
    config.optimizer.update(learning_rate=0.005, warmup_steps=20, schedule="wsd,decay_steps=300,final_fraction=0")
    config.train.update(steps=500, eval_every=250)
    config.sample.update(prompts=("What does os.path.join do?",), strategy="greedy", max_tokens=64)
    return config
