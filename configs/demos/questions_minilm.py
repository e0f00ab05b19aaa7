"""Answers to questions about functions, found in their documentation. From the weights of MiniLM.

    make demo-questions_minilm

Two cores of an Intel Xeon with AVX-512 take 14.3 minutes with the test, and answer 85.0% of its 2,637 questions with
the exact passage (F1 91.4). Always "no answer" has 25.7%, the line with most words of the question 2.0%, a linear
model that ranks passages 77.1% (F1 80.9). For its first hundred steps nothing seems to be learnt.
"""

from ml_collections import ConfigDict

from configs.demos import minilm


def get_config() -> ConfigDict:
    """The config of the run."""
    config = minilm.get_config()
    config.name = "questions from MiniLM"
    config.data.source = "demo,name=questions"
    config.data.valid_source = "demo,name=questions,split=valid"
    config.data.update(task="questions,stride=32,all_windows=0", seq_len=128, batch_size=24)
    config.model.classifier = "tokens,classes=2"
    config.optimizer.learning_rate = 3e-4
    config.train.update(steps=310, eval_every=310)
    return config
