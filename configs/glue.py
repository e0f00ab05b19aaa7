"""A task of GLUE (Wang et al. 2018, arXiv:1804.07461) for a pretrained encoder.

    python -m train.convert import ~/models/bert-base-uncased --workdir runs/bert
    python -m train --config configs/glue.py:cola --workdir runs/cola --config.init_from=runs/bert

TFDS has the data, which is prepared once; where it is missing the error says how. Not run by us: the data is not on our
machine. BERT-base reached, on the test sets, cola 52 (Matthews), sst2 94, mrpc 89 (F1), qqp 71 (F1), stsb 86
(Spearman), mnli 85, qnli 91 and rte 66 (Devlin et al. 2019, table 1); an accelerator takes minutes for the small ones.
"""

from ml_collections import ConfigDict

from configs import base

# task -> its columns as the fields of ours, classes (of a number, 1), training examples, split to validate on
TASKS = {
    "cola": ("sentence:text", 2, 8551, "validation"),
    "sst2": ("sentence:text", 2, 67349, "validation"),
    "mrpc": ("sentence1:text/sentence2:text_b", 2, 3668, "validation"),
    "qqp": ("question1:text/question2:text_b", 2, 363846, "validation"),
    "stsb": ("sentence1:text/sentence2:text_b", 1, 5749, "validation"),
    "mnli": ("premise:text/hypothesis:text_b", 3, 392702, "validation_matched"),
    "qnli": ("question:text/sentence:text_b", 2, 104743, "validation"),
    "rte": ("sentence1:text/sentence2:text_b", 2, 2490, "validation"),
    "wnli": ("sentence1:text/sentence2:text_b", 2, 635, "validation"),
}
METRICS = {"cola": "matthews", "mrpc": "accuracy/binary_f1", "qqp": "accuracy/binary_f1"}  # others: accuracy and F1


def get_config(task: str = "cola") -> ConfigDict:
    """The config of one task."""
    if task not in TASKS:
        raise ValueError(f"GLUE has no task {task!r}; use one of {', '.join(TASKS)}")
    config = fine_tuning(f"glue/{task}", *TASKS[task])
    if task == "stsb":
        config.data.task = "regression"
    elif task in METRICS:
        config.data.task = f"{config.data.task},metrics={METRICS[task]}"
    return config


def fine_tuning(dataset: str, rename: str, num_classes: int, num_examples: int, validation: str) -> ConfigDict:
    """Three epochs over a dataset of TFDS, in the way of Devlin et al. (2019, appendix A.3)."""
    config = base.get_config()
    config.name = dataset
    config.data.source = f"tfds,name={dataset},split=train,rename={rename}"
    config.data.valid_source = f"tfds,name={dataset},split={validation},rename={rename}"
    config.data.task = "classification"
    config.data.update(seq_len=128, batch_size=32)
    config.model.update(classifier=f"tanh,classes={num_classes}", dropout=0.1)
    config.optimizer.update(learning_rate=2e-5, weight_decay=0.01)
    config.optimizer.update(name="adamw,b2=0.999", schedule="linear,final_fraction=0")
    config.train.steps = -(-3 * num_examples // config.data.batch_size)
    config.optimizer.warmup_steps = config.train.steps // 10
    config.train.update(eval_every=config.train.steps // 6, eval_batches=0)
    return config
