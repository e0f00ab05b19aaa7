"""The command line of every entry point: a config file, overrides, and one clear error for what is wrong.

It lives here because `data` is the lowest package with an entry point that takes a config.
"""

import dataclasses
import difflib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from .config import DataConfig


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the user asked for.

    Attributes:
        config: the config with its overrides, locked.
        flags: the other flags of the command.
    """

    config: ConfigDict
    flags: dict[str, Any]


def load_config(path: epath.PathLike) -> ConfigDict:
    """Runs `get_config()` of a Python file, or reads the config.json of a run.

    Args:
        path: the file; "configs/glue.py:cola" calls `get_config("cola")`.

    Raises:
        ValueError: the file is not there or has no config.
    """
    name, colon, argument = os.fspath(path).partition(".py:")
    path = epath.Path(f"{name}.py" if colon else name)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], 3, 0.3)
        raise ValueError(f"--config={path}: no such file" + (f"; did you mean {', '.join(near)}?" if near else ""))
    if path.suffix == ".json":
        try:
            config: Any = ConfigDict(_tuples(json.loads(path.read_text())))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"--config={path} is not the config of a run: {error}") from error
        fields = {field.name for field in dataclasses.fields(DataConfig)}
        if "data" in config and (missing := sorted(fields - {*config.data})):
            raise ValueError(f"{path} is of a run of another version: it has no config.data.{missing[0]}")
        return config
    if path.suffix != ".py":
        raise ValueError(f"--config={path} must be a .py file, or the config.json of a run")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*[argument] * bool(colon)) if hasattr(module, "get_config") else None
    except Exception as error:
        raise ValueError(f"--config={path} does not run: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"--config={path} has no function get_config() that returns a ConfigDict")
    return config


def _tuples(value: Any) -> Any:
    """JSON has no tuples: lists in a config were tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all fields and their values."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, Mapping | ConfigDict):
                yield from walk(value, f"{path}{key}.")
            else:
                yield f"{path}{key}", value

    return dict(walk(config, prefix))


def read_command_line(
    argv: list[str],
    command: str,
    description: str,
    *,
    options: Mapping[str, tuple[Any, str]] | None = None,
    config_from_workdir: bool = False,
) -> Arguments:
    """Parses `--config FILE`, `--config.path.to.field=value` and the command's own flags.

    Args:
        argv: arguments after the program's name.
        command: the module, for the help text.
        description: the help text.
        options: name -> (default, help) of further flags; the default's type is the flag's, a required one has None.
        config_from_workdir: without --config, take the config that --workdir was trained with; there
            --config.init_from means the same directory.

    Returns:
        The arguments.

    Raises:
        ValueError: an unknown flag or config key (the nearest is named), or a value of the wrong type.
    """
    options = dict(options or {})
    argv = _joined(argv, {"config", *options})
    if {"--help", "-h", "-help"} & set(argv):
        print(_help(command, description, options))
        raise SystemExit(0)
    if config_from_workdir and not any(arg.startswith("--workdir=") for arg in argv):
        argv = [arg.replace("--config.init_from=", "--workdir=", 1) for arg in argv]
    given = dict(arg[2:].split("=", 1) for arg in argv if arg.startswith("--") and "=" in arg)
    file = given.get("config")
    if not file and config_from_workdir and given.get("workdir"):
        file = epath.Path(given["workdir"]).expanduser() / "config.json"
    if not file:
        needs = "--workdir=DIR of a run" if config_from_workdir else "--config=configs/NAME.py"
        raise ValueError(f"python -m {command} needs {needs}")
    if not given.get("config") and not epath.Path(file).is_file():
        raise ValueError(f"--workdir={given['workdir']} holds no run (no config.json)")
    config = load_config(file)
    known = flatten(config, "config.")
    for name in given:
        if name.startswith("config.") and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.4)
            raise ValueError(f"--{name}: unknown config key" + (f"; did you mean {near[0]}?" if near else ""))
    # Types are held to the defaults': 1 is taken for a float field, 1.5 is not for an int.
    rest = [arg for arg in argv if not arg.startswith("--config=")]
    values = flags.FlagValues()
    for name, (default, text) in options.items():
        _define(name, default, text, values)
    saved, sys.argv = sys.argv, [command, *rest]  # config_flags looks for its overrides there
    try:
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, lock_config=True)
        extra = values([command, *rest])[1:]
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
    finally:
        sys.argv = saved
    if extra:
        raise ValueError(f"{extra[0]!r} is not understood: flags are written --name=value")
    missing = [name for name, (default, _) in options.items() if default is None and values[name].value is None]
    if missing:
        raise ValueError(f"python -m {command} needs --{missing[0]}=...: {options[missing[0]][1]}")
    given_flags: dict[str, Any] = {name: values[name].value for name in options}
    if "workdir" in given_flags:
        given_flags["workdir"] = epath.Path(given_flags["workdir"]).expanduser()
    return Arguments(holder.value.lock(), given_flags)


def _joined(argv: list[str], names: set[str]) -> list[str]:
    """Writes `--name value` as `--name=value`, and `--num-slices` as `--num_slices`."""
    joined, i = [], 0
    argv = [_underscored(arg, names) for arg in argv]
    while i < len(argv):
        name = argv[i].removeprefix("--")
        takes_value = argv[i].startswith("--") and "=" not in name and (name in names or name.startswith("config."))
        if takes_value and i + 1 < len(argv) and not argv[i + 1].startswith("--"):
            joined.append(f"{argv[i]}={argv[i + 1]}")
            i += 2
        else:
            joined.append(argv[i])
            i += 1
    return joined


def _underscored(arg: str, names: set[str]) -> str:
    """A flag that is written with dashes, if that is the only difference to one of the names."""
    name, equals, value = arg.removeprefix("--").partition("=")
    underscored = name.replace("-", "_")
    return f"--{underscored}{equals}{value}" if arg.startswith("--") and underscored in names else arg


def _define(name: str, default: Any, text: str, values: flags.FlagValues) -> None:
    define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}.get(
        type(default), flags.DEFINE_string
    )
    define(name, default, text, flag_values=values)


def _help(command: str, description: str, options: Mapping[str, tuple[Any, str]]) -> str:
    lines = [description.strip(), "", "Flags:"]
    lines += [
        f"  --{name}={'...' if default is None else default}\n      {text}" for name, (default, text) in options.items()
    ]
    lines += [
        "  --config=configs/NAME.py",
        "  --config.path.to.field=value",
        "      see configs/base.py for the fields",
        "PALMETTE_TRACEBACK=1 shows where an error comes from.",
    ]
    return "\n".join(lines)


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Runs an entry point; what the user can mend is one line on stderr and exit status 2.

    So is a field that is read and that the config lacks: a run of another version may be evaluated as long as what is
    read of it is there.
    """
    try:
        status = main(sys.argv[1:])
    except BrokenPipeError:  # whoever read our output has enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (ValueError, OSError, AttributeError) as error:
        lacking = isinstance(error, AttributeError)
        if os.environ.get("PALMETTE_TRACEBACK") or (lacking and not isinstance(error.obj, ConfigDict)):
            raise
        said = f"the config is of a run of another version: it has no field {error.name!r}" if lacking else error
        print(f"error: {said}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:  # where no run is there to be saved
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
