"""The command line: what is taken, and one clear line for what is not."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from configs import base
from data.command_line import Arguments, flatten, load_config, read_command_line, run_main

BASE = str(Path(base.__file__))
OPTIONS: dict[str, tuple[Any, str]] = {
    "workdir": (None, "where the run lies"),
    "steps": (3, "how many"),
    "rate": (0.5, "how fast"),
    "dry": (False, "only look"),
}


def parse(*argv: str, **options: Any) -> Arguments:
    return read_command_line(list(argv), "train", "Trains a model.", **options)


def override(*argv: str) -> Any:
    return parse(f"--config={BASE}", *argv).config


def write(path: Path, content: str) -> str:
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("--config.model.d_modl=3", "config.model.d_model"),
        ("--config.modle.d_model=3", "config.model.d_model"),
        ("--config.optimizer.learningrate=1", "config.optimizer.learning_rate"),
        ("--config.model.d_model.x=1", "config.model.d_model"),
        ("--config.sead=1", "config.seed"),
    ],
)
def test_an_unknown_key_names_the_nearest(argument: str, nearest: str):
    name = argument.split("=")[0]
    with pytest.raises(ValueError, match=rf"{name}: unknown config key; did you mean {nearest}\?$"):
        override(argument)
    with pytest.raises(ValueError, match=rf"did you mean {nearest}\?$"):
        override(name, "3")


def test_a_group_of_keys_cannot_be_replaced():
    with pytest.raises(ValueError, match=r"--config\.model: unknown config key"):
        override("--config.model=3")


@pytest.mark.parametrize(
    "argument",
    [
        "config.model.d_model=1.5",
        "config.model.d_model=abc",
        "config.model.d_model=",
        "config.model.d_model=True",
        "config.optimizer.learning_rate=fast",
        "config.data.packing=maybe",
        "config.data.packing=2",
    ],
)
def test_a_value_of_the_wrong_type_is_named(argument: str):
    with pytest.raises(ValueError, match=rf"--{argument}"):
        override(f"--{argument}")


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("--config.model.d_model=64", "model.d_model", 64),
        ("--config.mesh.data=-1", "mesh.data", -1),
        ("--config.optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("--config.optimizer.learning_rate=3e-4", "optimizer.learning_rate", 3e-4),
        ("--config.data.packing=false", "data.packing", False),
        ("--config.model.tie_embeddings=False", "model.tie_embeddings", False),
        ("--config.name=a=b, c", "name", "a=b, c"),
        ("--config.name=", "name", ""),
        ("--config.sample.prompts=('x', 'y z')", "sample.prompts", ("x", "y z")),
        ("--config.sample.prompts=()", "sample.prompts", ()),
    ],
)
def test_a_value_of_the_right_type_is_taken_with_equals_sign_or_space(argument: str, key: str, value: Any):
    default = flatten(base.get_config())
    for argv in ([argument], argument.split("=", 1)):
        changed = flatten(override(*argv))
        assert changed[key] == value
        assert type(changed[key]) is type(value)
        assert {name for name in default if default[name] != changed[name]} == {key} - {
            name for name in default if default[name] == value
        }


def test_the_last_of_two_overrides_counts():
    assert override("--config.seed=1", "--config.model.d_model=8", "--config.seed=2").seed == 2


def test_the_config_file_is_named_with_equals_sign_or_space():
    expected = flatten(base.get_config())
    assert flatten(parse(f"--config={BASE}").config) == expected
    assert flatten(parse("--config", BASE).config) == expected
    assert parse("--config.seed", "5", "--config", BASE).config.seed == 5


@pytest.mark.parametrize("argv", [[], ["--config"], ["--config="], ["--config.seed=1"]])
def test_a_command_without_a_config_says_what_it_needs(argv: list[str]):
    with pytest.raises(ValueError, match=r"python -m train needs --config=configs/NAME\.py"):
        parse(*argv)


def test_a_config_file_that_is_not_there_names_the_near_ones(tmp_path: Path):
    write(tmp_path / "small.py", "")
    write(tmp_path / "unlike_1234567890.py", "")
    with pytest.raises(ValueError, match=r"--config=.*/smal\.py: no such file; did you mean small\.py\?$"):
        parse(f"--config={tmp_path}/smal.py")
    with pytest.raises(ValueError, match=r"--config=.*/nowhere/smal\.py: no such file$"):
        parse(f"--config={tmp_path}/nowhere/smal.py")
    with pytest.raises(ValueError, match=r": no such file"):
        parse(f"--config={tmp_path}")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.py", "x = 1", "has no function get_config()"),
        ("bad.py", "def get_config(): return None", "get_config()"),
        ("bad.py", "import no_such_module", "does not run: ModuleNotFoundError: No module named 'no_such_module'"),
        ("bad.py", "def (", "does not run: SyntaxError"),
        ("bad.py", "def get_config(): return 1 / 0", "does not run: ZeroDivisionError: division by zero"),
        ("bad.json", "{", "bad.json"),
        ("bad.json", "[1]", "bad.json"),
        ("bad.txt", "def get_config(): return 1", "bad.txt"),
    ],
)
def test_a_file_that_is_no_config_is_named_with_the_reason(name: str, content: str, says: str, tmp_path: Path):
    file = write(tmp_path / name, content)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse(f"--config={file}")
    assert f"--config={file}" in str(error.value)
    assert says in str(error.value)


def test_flags_of_the_command_have_the_types_of_their_defaults():
    defaults = {"workdir": epath.Path("x"), "steps": 3, "rate": 0.5, "dry": False}
    assert parse(f"--config={BASE}", "--workdir=x", options=OPTIONS).flags == defaults
    given = parse(f"--config={BASE}", "--workdir", "y", "--steps", "5", "--rate=2", "--dry", options=OPTIONS)
    assert given.flags == {"workdir": epath.Path("y"), "steps": 5, "rate": 2.0, "dry": True}
    assert type(given.flags["rate"]) is float
    assert parse(f"--config={BASE}", "--workdir=~/z", options=OPTIONS).flags["workdir"] == Path.home() / "z"
    with pytest.raises(ValueError, match=r"--steps=1\.5"):
        parse(f"--config={BASE}", "--workdir=x", "--steps=1.5", options=OPTIONS)


@pytest.mark.parametrize(
    "given", [["--num-slices=3"], ["--num-slices", "3"], ["--num_slices=3"], ["--num_slices", "3"]]
)
def test_a_flag_may_be_written_with_dashes(given: list[str]):
    options = {"num_slices": (1, "a number")}
    assert parse(f"--config={BASE}", *given, options=options).flags == {"num_slices": 3}


def test_dashes_in_values_stay():
    assert parse(f"--config={BASE}", "--out=my-plans", options={"out": ("", "a path")}).flags["out"] == "my-plans"


def test_a_required_flag_that_is_missing_is_explained():
    with pytest.raises(ValueError, match=r"python -m train needs --workdir=\.\.\.: where the run lies"):
        parse(f"--config={BASE}", options=OPTIONS)


def test_an_unknown_flag_names_the_nearest():
    with pytest.raises(ValueError, match=r"'stepz'. Did you mean: steps"):
        parse(f"--config={BASE}", "--workdir=x", "--stepz=4", options=OPTIONS)


@pytest.mark.parametrize("argv", [["stray"], ["--config.seed=1", "stray"], ["config.seed=1"]])
def test_a_stray_argument_is_named(argv: list[str]):
    with pytest.raises(ValueError, match=rf"'{argv[-1]}' is not understood: flags are written --name=value"):
        override(*argv)


@pytest.mark.parametrize("argv", [["--help"], ["-h"], [f"--config={BASE}", "--config.model.d_modl=1", "--help"]])
def test_help_is_printed_and_is_no_failure(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parse(*argv, options=OPTIONS)
    assert stop.value.code in (None, 0)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("Trains a model.")
    for text in ("--workdir=...", "where the run lies", "--steps=3", "how many", "--config.path.to.field=value"):
        assert text in printed.out


def test_a_config_comes_back_from_json_with_its_tuples(tmp_path: Path):
    config: Any = base.get_config()
    config.sample.prompts = ("a\u00e9", "b\n")
    config.shape = ((1, 2), (), (0.5, None))
    loaded: Any = load_config(write(tmp_path / "config.json", config.to_json()))
    assert flatten(loaded) == flatten(config)
    assert loaded.sample.prompts == ("a\u00e9", "b\n")
    assert loaded["shape"] == ((1, 2), (), (0.5, None))
    assert {k: type(v) for k, v in flatten(loaded).items()} == {k: type(v) for k, v in flatten(config).items()}


def test_a_command_finds_the_config_of_a_run_and_overrides_it(tmp_path: Path):
    config: Any = base.get_config()
    config.update(name="run", seed=7)
    write(tmp_path / "config.json", config.to_json())
    options: dict[str, Any] = {"options": OPTIONS, "config_from_workdir": True}
    found: Any = parse(f"--workdir={tmp_path}", "--config.sample.prompts=('x',)", **options).config
    assert (found.name, found.seed, found.sample.prompts) == ("run", 7, ("x",))
    assert parse(f"--workdir={tmp_path}", f"--config={BASE}", **options).config.name == "base"
    with pytest.raises(ValueError, match=r"--workdir=.*/none holds no run"):
        parse(f"--workdir={tmp_path}/none", **options)
    with pytest.raises(ValueError, match=r"python -m train needs --workdir=DIR of a run"):
        parse(**options)


def test_the_config_is_locked():
    config = override()
    with pytest.raises(AttributeError, match="new_field"):
        config.new_field = 1
    with pytest.raises(AttributeError, match="new_field"):
        config.model.new_field = 1
    with pytest.raises(TypeError):
        config.model.d_model = "wide"


def test_the_programs_own_arguments_are_left_alone():
    before = list(sys.argv)
    override("--config.seed=1")
    with pytest.raises(ValueError, match="stray"):
        override("stray")
    assert sys.argv == before


@pytest.mark.parametrize("error", [ValueError("config.data.seq_len=0 is wrong"), OSError("disk full")])
def test_an_error_the_user_can_mend_is_one_line_and_status_2(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def main(argv: list[str]) -> None:
        assert argv == ["--flag"]
        raise error

    monkeypatch.setattr(sys, "argv", ["program", "--flag"])
    monkeypatch.delenv("PALMETTE_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop:
        run_main(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"
    monkeypatch.setenv("PALMETTE_TRACEBACK", "1")
    with pytest.raises(type(error)):
        run_main(main)


def test_a_defect_keeps_its_traceback():
    def main(argv: list[str]) -> None:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        run_main(main)


def test_what_follows_the_colon_goes_to_get_config(tmp_path: Path):
    file = write(
        tmp_path / "sizes.py",
        "from ml_collections import ConfigDict\ndef get_config(size='8'): return ConfigDict({'size': int(size)})\n",
    )
    assert load_config(file).size == 8
    assert load_config(f"{file}:13").size == 13
    with pytest.raises(ValueError, match=r"sizes\.py does not run: ValueError: invalid literal for int\(\).*'much'"):
        load_config(f"{file}:much")
    with pytest.raises(ValueError, match=r"size\.py: no such file; did you mean sizes\.py"):
        load_config(f"{tmp_path}/size.py:13")


def test_a_run_of_another_version_is_named(tmp_path: Path):
    """Its config lacks fields, which would be a KeyError wherever the first of them is read."""
    config: Any = base.get_config().to_dict()
    del config["data"]["task"], config["data"]["filters"]
    file = write(tmp_path / "config.json", json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json is of a run of another version: it has no config\.data\.filte"):
        load_config(file)
