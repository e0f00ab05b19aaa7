"""train.generate as a user has it: a text that streams, and a conversation through pipes."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from ml_collections import ConfigDict

import train.generate
from data import prepare
from parallel import make_mesh
from tests.conftest import tiny_config
from train import fit, init_state
from train.chat import conversation_tokens, converse, fitting
from train.checkpoint import Checkpoints
from train.workdir import write_run

ROOT = Path(__file__).parents[1]
SAID = [{"role": "user", "content": "the"}, {"role": "assistant", "content": " model"}]


@pytest.fixture(scope="module")
def workdir(corpus_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps."""
    config = tiny_config(corpus_directory)
    config.train.steps = 3
    config.sample.prompts = ()
    config.mesh.update(data=1, allow_idle=True)
    workdir = tmp_path_factory.mktemp("chat") / "run"
    fit(config, workdir)
    return workdir


def say(workdir: Path, lines: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    train.generate.main([f"--workdir={workdir}", "--interactive", *options])


# ---- one text


def test_streaming_prints_the_same_text_piece_by_piece(workdir: Path, monkeypatch: pytest.MonkeyPatch):
    printed: dict[str, list[str]] = {"--stream": [], "--stream=false": []}
    for option, pieces in printed.items():
        monkeypatch.setattr(
            train.generate, "print", lambda piece, pieces=pieces, **_: pieces.append(piece), raising=False
        )
        train.generate.main([f"--workdir={workdir}", "--prompt", "the tok", "--config.sample.max_tokens=12", option])
    assert "".join(printed["--stream"]) == "".join(printed["--stream=false"])
    prompt, text, end = printed["--stream=false"]
    assert (prompt, end) == ("the tok", "\n")
    assert len(text) > 8
    assert len(printed["--stream"]) > 8


def test_an_encoder_decoder_prints_its_answer_alone(
    config: ConfigDict, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Its first state stands for a checkpoint.
    config.model.architecture = "encoder_decoder"
    config.mesh.update(data=1, allow_idle=True)
    config.sample.strategy = "beam,beams=2"
    params = init_state(config, make_mesh(config.mesh)).params
    run = epath.Path(tmp_path / "run")
    run.mkdir()
    write_run(run, config, prepare(config.data))
    checkpoints = Checkpoints(run)
    checkpoints.save(0, params=params)
    checkpoints.close()
    train.generate.main([f"--workdir={run}", "--prompt=the model"])
    answer = capsys.readouterr().out
    assert not answer.startswith("the model")
    say(tmp_path / "run", "the model\nthe model\n", monkeypatch)
    assert capsys.readouterr().out == answer * 2  # a line does not depend on those before it


# ---- conversations


def test_the_user_s_line_is_continued_and_a_line_s_end_follows_the_answer(config: ConfigDict):
    tokenizer = prepare(config.data).tokenizer
    again = [*SAID, {"role": "user", "content": "and"}]
    assert conversation_tokens(config, tokenizer, SAID[:1]) == [tokenizer.bos_id, *tokenizer.encode("the")]
    assert conversation_tokens(config, tokenizer, again) == [tokenizer.bos_id, *tokenizer.encode("the model\nand")]


def test_a_task_of_single_answers_is_asked_in_its_own_form(config: ConfigDict):
    """As --prompt does it: with prefix and separator, and without what was said before."""
    tokenizer = prepare(config.data).tokenizer
    config.data.task = "continuation,prefix='>',separator=' = '"
    ids, dropped = fitting(config, tokenizer, [*SAID, {"role": "user", "content": "two"}])
    assert (tokenizer.decode(ids), dropped) == (">two = ", 0)


def test_the_oldest_turns_are_dropped_where_the_model_s_length_ends(config: ConfigDict):
    tokenizer = prepare(config.data).tokenizer
    config.sample.max_tokens = 8  # 24 tokens are left for what was said
    last = {"role": "user", "content": "and"}
    for turns in range(1, 12):
        ids, dropped = fitting(config, tokenizer, [*SAID * turns, last])
        assert len(ids) <= 24
        assert ids == conversation_tokens(config, tokenizer, [*SAID * (turns - dropped), last])
        more = conversation_tokens(config, tokenizer, [*SAID * (turns - dropped + 1), last])
        assert not dropped or len(more) > 24
    assert dropped
    with pytest.raises(ValueError, match=r"this line has \d+ tokens, but config.data.seq_len=32 leaves 24 beside"):
        fitting(config, tokenizer, [*SAID, {"role": "user", "content": "many words " * 30}])


def test_each_answer_is_given_what_was_said_before(
    config: ConfigDict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    tokenizer, asked = prepare(config.data).tokenizer, []

    def write(ids: Any) -> Iterator[str]:
        asked.append(tokenizer.decode(ids))
        yield " model"
        if len(asked) == 2:
            raise KeyboardInterrupt
        yield " sees"

    config.data.seq_len = 64
    monkeypatch.setattr(sys, "stdin", io.StringIO("the\nwhich\n\n/reset\nin\n" + "long " * 60 + "\na\n"))
    converse(config, tokenizer, write)
    printed = capsys.readouterr()
    assert printed.out == " model sees\n model\n model sees\n model sees\n"
    assert asked == ["the", "the model sees\nwhich", "in", "in model sees\na"]
    assert "What was said is forgotten." in printed.err
    assert "this line has" in printed.err


def test_a_conversation_is_the_same_for_the_same_seed_and_forgets_on_reset(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    say(
        workdir,
        "the model\nthe model\n/reset\nthe model\n" + "sees\n" * 6,
        monkeypatch,
        "--config.sample.stop=('\\n',)",
    )
    printed = capsys.readouterr()
    first, _, again, *_ = printed.out.split("\n")
    assert first == again
    assert "no longer fit and are forgotten" in printed.err
    say(workdir, "the model\n", monkeypatch, "--config.sample.stop=('\\n',)")
    assert capsys.readouterr().out.split("\n")[0] == first


def test_a_prompt_and_a_conversation_exclude_each_other(workdir: Path):
    with pytest.raises(ValueError, match="leave out --prompt='x'"):
        train.generate.main([f"--workdir={workdir}", "--interactive", "--prompt=x"])


def test_ctrl_c_ends_the_answer_and_then_the_conversation(workdir: Path):
    options = ["--config.data.seq_len=20000", "--config.sample.max_tokens=9000", "--config.sample.strategy=sample"]
    command = [sys.executable, "-m", "train.generate", f"--workdir={workdir}", "--interactive", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
    assert process.stdin
    assert process.stdout
    try:
        for _ in range(2):
            process.stdin.write("the\n")
            process.stdin.flush()
            assert process.stdout.read(1)  # it is being written
            process.send_signal(signal.SIGINT)
            while process.stdout.read(1) != "\n":  # and ends, long before 9,000 tokens
                pass
        process.send_signal(signal.SIGINT)  # at an empty line
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said
