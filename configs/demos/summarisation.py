"""A Python function into the first sentence of its docstring. The model of configs/tiny.py, from its run in runs/tiny.

    make train demo-summarisation

Two cores of an Intel Xeon with AVX-512 take 13.5 minutes with the test and reach a ROUGE-L of 21.9 on the 1,869
functions of held-out files. The words of the function's name have 21.5, the nearest function's sentence 23.8.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    """The config of the run."""
    config = tiny.get_config()
    config.name = "summarisation"
    config.init_from = "runs/tiny"
    config.data.source = "demo,name=summarisation"
    config.data.valid_source = "demo,name=summarisation,split=valid"
    config.data.task = "continuation,source_length=192,separator='\n# ',metrics=rouge"
    config.data.update(seq_len=256, batch_size=16)
    config.optimizer.update(learning_rate=0.005, warmup_steps=20, schedule="wsd,decay_steps=450,final_fraction=0")
    config.train.update(steps=700, eval_every=700)
    config.sample.update(prompts=("def add(a, b):\n    return a + b\n",), strategy="greedy", max_tokens=32)
    return config
