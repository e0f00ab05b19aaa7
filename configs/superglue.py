"""A task of SuperGLUE (Wang et al. 2019, arXiv:1905.00537) for a pretrained encoder.

    python -m train.convert import ~/models/bert-large-cased --workdir runs/bert
    python -m train --config configs/superglue.py:boolq --workdir runs/boolq --config.init_from=runs/bert

TFDS has the data, which is prepared once; where it is missing the error says how. Not run by us: the data is not on our
machine. BERT-large reached, on the test sets, boolq 77, cb 84, multirc 70 (F1), record 72 (F1), rte 72, wic 70 and
wsc 64 (Wang et al. 2019, table 3). Of the choices of copa the model sees both, of the places of wic and wsc the words.
"""

from ml_collections import ConfigDict

from configs import glue

# As in GLUE; columns joined by + follow one another in a field.
TASKS = {
    "boolq": ("question:text/passage:text_b", 2, 9427, "validation"),
    "cb": ("premise:text/hypothesis:text_b", 3, 250, "validation"),
    "copa": ("premise+question:text/choice1+choice2:text_b", 2, 400, "validation"),
    "multirc": ("question+answer:text/paragraph:text_b", 2, 27243, "validation"),
    "record": ("query:question/passage:context/answers:answers", 2, 100730, "validation"),
    "rte": ("premise:text/hypothesis:text_b", 2, 2490, "validation"),
    "wic": ("word+sentence1:text/sentence2:text_b", 2, 5428, "validation"),
    "wsc.fixed": ("span1_text+span2_text:text/text:text_b", 2, 554, "validation"),
}


def get_config(task: str = "boolq") -> ConfigDict:
    """The config of one task."""
    if task not in TASKS:
        raise ValueError(f"SuperGLUE has no task {task!r}; use one of {', '.join(TASKS)}")
    config = glue.fine_tuning(f"super_glue/{task}", *TASKS[task])
    config.data.seq_len = 512
    if task == "record":
        config.data.task = "questions,find=1"
        config.model.classifier = "tokens,classes=2"
    return config
