"""train.convert as a user calls it: in, evaluated, continued, fine-tuned, out again."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

import train.convert
from data import load_tokenizer
from tests.helpers import command
from tests.reference.models import VOCAB_SIZE
from tests.reference.weights import write_directory
from train import fit
from train.metrics import read_metrics

WORDS = "the model sees tokens and learns which of them comes next in a row of many words end ."


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tiny Llama in Hugging Face's format, with a tokenizer of words."""
    directory = write_directory("llama", tmp_path / "llama")
    words = dict.fromkeys(["<unk>", "<s>", "</s>", *WORDS.split()])
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture
def imported(llama: Path, tmp_path: Path) -> Path:
    convert("import", llama, tmp_path / "imported")
    return tmp_path / "imported"


def convert(direction: str, directory: Path, workdir: Path, *more: str) -> None:
    train.convert.main([direction, str(directory), f"--workdir={workdir}", *more])


def like(config: Any) -> list[str]:
    """The data of the tests, as overrides."""
    data = config.data
    names = ("source", "dir", "valid_fraction", "seq_len", "batch_size")
    return [f"--config.data.{name}={data[name]}" for name in names]


def test_export_of_an_import_has_the_same_bits_and_files(llama: Path, imported: Path, tmp_path: Path):
    convert("export", tmp_path / "out", imported)
    before, after = (load_file(directory / "model.safetensors") for directory in (llama, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    config, original = (json.loads((d / "config.json").read_text()) for d in (tmp_path / "out", llama))
    assert config["vocab_size"] == VOCAB_SIZE
    assert config["rope_parameters"]["rope_theta"] == config["rope_theta"]  # transformers 5 and 4 read different keys
    assert config["eos_token_id"] == original["eos_token_id"]
    card = (tmp_path / "out/README.md").read_text()
    assert "| imported from | llama (llama) |" in card


def test_an_imported_model_is_evaluated_and_continues_a_text(
    imported: Path, config: ConfigDict, capsys: pytest.CaptureFixture[str]
):
    command("evaluate")([f"--config.init_from={imported}", *like(config)])
    figures = json.loads(capsys.readouterr().out)
    assert figures["step"] == 0
    assert 0 < figures["loss"] < 20
    command("inspect")([f"--workdir={imported}"])
    assert json.loads(capsys.readouterr().out)["num_params"] > 40_000
    command("generate")([f"--workdir={imported}", "--prompt", "the model", "--config.sample.max_tokens=4"])
    assert capsys.readouterr().out.startswith("the model")


def test_a_run_starts_from_an_imported_model(imported: Path, config: ConfigDict, llama: Path, tmp_path: Path):
    config.init_from = str(imported)
    config.sample.prompts = ()
    config.optimizer.update(learning_rate=1e-30, weight_decay=0.0, warmup_steps=0)
    config.train.steps = 2
    fit(config, tmp_path / "run")
    convert("export", tmp_path / "out", tmp_path / "run")
    before, after = (load_file(directory / "model.safetensors") for directory in (llama, tmp_path / "out"))
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)  # nothing was learned
    assert load_tokenizer(tmp_path / "run").vocab_size == load_tokenizer(llama).vocab_size
    config.optimizer.learning_rate = 0.003
    config.train.steps = 20
    fit(config, tmp_path / "learned")
    losses = [record["loss"] for record in read_metrics(tmp_path / "learned") if "loss" in record]
    assert losses[0] == pytest.approx(next(r["loss"] for r in read_metrics(tmp_path / "run")), rel=1e-6)
    assert np.mean(losses[-3:]) < losses[0] - 0.5
    assert json.loads((tmp_path / "learned/config.json").read_text())["model"]["activation"] == "swiglu"


def test_a_run_is_exported_as_the_family_that_says_it(config: ConfigDict, tmp_path: Path):
    config.model.update(activation="swiglu", tie_embeddings=False)
    config.optimizer.warmup_steps = 0
    config.train.steps = 2
    fit(config, tmp_path / "run")
    convert("export", tmp_path / "out", tmp_path / "run")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["model_type"] == "llama"
    assert written["vocab_size"] == 300
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert tensors["model.embed_tokens.weight"].shape == (300, 32)  # without the padding
    card = (tmp_path / "out/README.md").read_text()
    assert "| updates | 2 |" in card
    assert "validation at update 2" in card
    tokenizer = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    text = "the model sees tokens"
    assert tokenizer.encode(text, add_special_tokens=False).ids == load_tokenizer(tmp_path / "run").encode(text)
    with pytest.raises(ValueError, match=r"gpt2 has no name for layers/mlp/w_gate"):
        convert("export", tmp_path / "other", tmp_path / "run", "--family=gpt2")
    assert not (tmp_path / "other").exists()


def test_an_encoder_goes_in_and_out_but_does_not_predict_the_next_token(config: ConfigDict, tmp_path: Path):
    bert = write_directory("bert", tmp_path / "bert")
    convert("import", bert, tmp_path / "imported")
    convert("export", tmp_path / "out", tmp_path / "imported")
    before, after = (load_file(directory / "model.safetensors") for directory in (bert, tmp_path / "out"))
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    for run in (
        lambda: fit(config, tmp_path / "run"),
        lambda: command("evaluate")([f"--workdir={tmp_path / 'imported'}"]),
    ):
        config.init_from = str(tmp_path / "imported")
        with pytest.raises(ValueError, match=r"causal_lm' is for .*architecture='decoder', not 'encoder'"):
            run()
    with pytest.raises(ValueError, match=r"config.model.architecture='encoder' does not write text; that takes one wi"):
        command("generate")([f"--workdir={tmp_path / 'imported'}", "--prompt=the"])


def test_without_the_extra_other_tokenizers_still_work(llama: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"tokenizer.json takes the package tokenizers"):
        load_tokenizer(llama)


def test_what_cannot_be_converted_is_named_and_nothing_is_written(
    llama: Path, imported: Path, config: ConfigDict, tmp_path: Path
):
    with pytest.raises(ValueError, match="holds an imported model"):
        convert("import", llama, imported)
    with pytest.raises(ValueError, match=r"holds an imported model; train it with --config.init_from="):
        fit(config, imported)
    config.init_from = str(llama)
    with pytest.raises(ValueError, match=r"python -m train.convert import .*llama"):
        fit(config, tmp_path / "run")
    with pytest.raises(ValueError, match="has no config"):
        convert("import", tmp_path / "nowhere", tmp_path / "new")
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"can run code .* convert it"):
        convert("import", llama, tmp_path / "new")
    assert not (tmp_path / "new").exists()
