"""The harness's tasks give a model of ours what they give the same model as `transformers` has it."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import train.convert
from data import load_tokenizer
from data.command_line import load_config
from parallel import MeshConfig, make_mesh
from tests.conftest import tiny_config
from tests.helpers import command, one_device
from tests.reference.models import VOCAB_SIZE
from tests.reference.weights import write_directory
from train import fit
from train.harness import find_tasks, report
from train.restore import read_params

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]  # the harness and what it imports
SENTENCES = [
    "a model sees the tokens of many words.",
    "which word comes next in the row? one learns it.",
    "some rows end soon, and others go on for a while, until they end as well.",
]
CASES = ["gpt2", "llama", "own"]
each_case = pytest.mark.parametrize("case", CASES)


def tasks_in(directory: Path) -> dict[str, str]:
    """Name and file of three tasks, one for each kind of request, over files beside them."""
    rng, texts = np.random.default_rng(0), [text for text in SENTENCES for _ in range(4)]
    words = " ".join(texts).split()

    def some(number: int) -> str:
        return " ".join(rng.choice(words, number))

    choices = [{"question": some(5), "choices": [" " + some(n) for n in (1, 2, 5)], "answer": i % 3} for i in range(9)]
    choices.append(choices[0] | {"question": ""})
    long = [{"text": some(n)} for n in (3, 90, 1, 40)]  # longer than the model sees
    tasks = {
        "choice": (
            choices,
            {
                "output_type": "multiple_choice",
                "doc_to_text": "{{question}}",
                "doc_to_target": "{{answer}}",
                "doc_to_choice": "{{choices}}",
                "target_delimiter": "",
                "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
            },
        ),
        "rolling": (
            long,
            {
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": "{{text}}",
                "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
            },
        ),
        "until": (
            [{"text": some(n), "next": "s"} for n in (1, 4, 60, 2, 9)],
            {
                "output_type": "generate_until",
                "doc_to_text": "{{text}}",
                "doc_to_target": "{{next}}",
                "generation_kwargs": {"until": ["e", "."], "max_gen_toks": 9},
                "metric_list": [{"metric": "exact_match"}],
            },
        ),
    }
    files = {}
    for name, (examples, task) in tasks.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
        source = {"data_files": {"test": str(directory / f"{name}.jsonl")}, "cache_dir": str(directory / "cache")}
        head = {"task": f"local_{name}", "dataset_path": "json", "dataset_kwargs": source, "test_split": "test"}
        files[name] = directory / f"{name}.yaml"
        files[name].write_text(json.dumps(head | task))  # which is YAML, too
    return {name: str(file) for name, file in files.items()}


def tokenizer_of(family: str) -> Tokenizer:
    """A BPE with as many ids as the model has; Llama's puts <s> before a text, GPT-2's nothing."""
    engine: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    engine.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=special, show_progress=False)
    )
    if family == "llama":
        engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return engine


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus_directory: Path) -> Callable[[str], tuple[Path, Path]]:
    """Workdir of a case, and the directory that it was exported to."""

    @functools.cache
    def make(case: str) -> tuple[Path, Path]:
        directory = tmp_path_factory.mktemp(case)
        workdir, exported = directory / "run", directory / "exported"
        if case == "own":
            config = tiny_config(corpus_directory)
            config.train.steps, config.optimizer.warmup_steps = 1, 0
            config.sample.prompts = ()
            config.model.activation = "swiglu"
            fit(config, workdir)
        else:
            source = write_directory(case, directory / "source")
            tokenizer_of(case).save(str(source / "tokenizer.json"))
            train.convert.main(["import", str(source), f"--workdir={workdir}"])
        train.convert.main(["export", str(exported), f"--workdir={workdir}"])
        return workdir, exported

    return make


def ours(workdir: Path, *, batch_size: int = 4, mesh: Any = None) -> Any:
    from train.harness_model import HarnessModel

    config: ConfigDict = load_config(workdir / "config.json")
    config.data.batch_size = batch_size
    mesh = mesh or one_device()
    return HarnessModel(config, read_params(config, workdir, mesh)[0], mesh, load_tokenizer(workdir))


def run(model: Any, tasks: dict[str, str]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The report, and the answers to each request of each task."""
    import lm_eval.tasks  # pyright: ignore[reportMissingImports]

    manager = lm_eval.tasks.TaskManager(include_defaults=False)
    found: Any = lm_eval.simple_evaluate(
        model=model, tasks=list(tasks.values()), task_manager=manager, bootstrap_iters=0
    )
    return report(found), {
        name: [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
        for name, samples in found["samples"].items()
    }


def assert_equal(found: Any, expected: Any) -> None:
    """The same texts and choices, log-likelihoods within 1e-4, and the figures that follow from them."""
    (ours, our_answers), (theirs, their_answers) = found, expected
    assert our_answers["local_until"] == their_answers["local_until"]
    assert len(set(map(str, our_answers["local_until"]))) > 1
    for name in ("local_choice", "local_rolling"):
        np.testing.assert_allclose(numbers(our_answers[name]), numbers(their_answers[name]), rtol=0, atol=1e-4)
    assert ours.keys() == theirs.keys()
    for name, figures in theirs["results"].items():
        for key, figure in figures.items():
            exact = isinstance(figure, str) or name != "local_rolling"
            assert ours["results"][name][key] == (figure if exact else pytest.approx(figure, rel=1e-4)), key
    assert ours["num_examples"] == {"local_choice": 10, "local_rolling": 4, "local_until": 5}


def numbers(answers: Any) -> list[float]:
    """Log-likelihoods, and whether a continuation is the likeliest, of nested answers."""
    return [float(x) for part in answers for x in (numbers(part) if isinstance(part, list | tuple) else [part])]


@each_case
def test_the_scores_are_those_of_the_harnesss_own_model(case: str, runs: Any, tmp_path: Path):
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    workdir, exported = runs(case)
    tasks = tasks_in(tmp_path)
    theirs = HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=3)
    model, expected = ours(workdir), run(theirs, tasks)
    for name in ("prefix_token_id", "eot_token_id", "max_length"):
        assert getattr(model, name) == getattr(theirs, name), name
    assert_equal(run(model, tasks), expected)
    if case == "own":
        mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
        assert_equal(run(ours(workdir, batch_size=8, mesh=mesh), tasks), expected)


def test_the_command_prints_a_report(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    workdir, _ = runs("own")
    tasks = tasks_in(tmp_path)
    capsys.readouterr()
    command("evaluate")([f"--workdir={workdir}", f"--harness={tasks['choice']}, {tasks['rolling']}", "--limit=3"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["step"] == 1
    assert 0 <= printed["results"]["local_choice"]["acc,none"] <= 1
    assert printed["results"]["local_choice"]["acc_stderr,none"] >= 0
    assert printed["results"]["local_rolling"]["byte_perplexity,none"] > 1
    assert printed["num_fewshot"] == {"local_choice": 0, "local_rolling": 0}
    assert printed["num_examples"] == {"local_choice": 3, "local_rolling": 3}


def test_an_unknown_task_is_named_before_a_model_is_opened(runs: Any, monkeypatch: pytest.MonkeyPatch):
    workdir, _ = runs("own")
    monkeypatch.setattr("train.harness.restore_params", None)
    with pytest.raises(ValueError, match=r"'hellaswagg' is neither a task of lm_eval .* did you mean hellaswag"):
        command("evaluate")([f"--workdir={workdir}", "--harness=arc_easy,hellaswagg"])
    with pytest.raises(ValueError, match="names no task"):
        find_tasks(" , ")
    with pytest.raises(ValueError, match=r"'missing\.yaml' is neither"):
        find_tasks("missing.yaml")
    assert find_tasks("arc_eas*, sciq")[0] == ["arc_easy", "sciq"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"do_sample": True, "temperature": 0.7}, "local draws samples, do_sample=True"),
        ({"max_gen_toks": 32}, "local asks for max_gen_toks=32, which must leave room for a prompt in the 32 tokens"),
        ({}, "local asks for max_gen_toks=256"),
    ],
)
def test_what_cannot_be_generated_is_refused(settings: dict[str, Any], says: str, runs: Any):
    request = SimpleNamespace(args=("the", settings), task_name="local")
    with pytest.raises(ValueError, match=says):
        ours(runs("own")[0]).generate_until([request])
