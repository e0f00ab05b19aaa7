"""What a family of models is: Hugging Face's hyperparameters and weight names, each beside the core's."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..choices import CHOICES

Config = dict[str, Any]

# The core's fields where nothing is said: what a plain pre-norm decoder has.
NEUTRAL: Config = {
    "architecture": "decoder",
    "head_dim": 0,
    "block": "pre",
    "norm": "rmsnorm",
    "bias": "none",
    "position": "rope",
    "rope_theta": 10000.0,
    "rope_scaling": "",
    "embedding_norm": "none",
    "embedding_scale": 1.0,
    "token_types": 0,
    "head": "linear",
    "logit_scale": 1.0,
    "classifier": "",
    "image": "",
    "qk_norm": "none",
    "attention_scale": 0.0,
    "attention_soft_cap": 0.0,
    "logit_soft_cap": 0.0,
    "window": 0,
    "layer_pattern": "",
    "latent_attention": "",
    "value_mix": "",
    "num_experts": 0,
    "experts_per_token": 2,
    "d_expert": 0,
    "d_shared_expert": 0,
    "num_dense_layers": 0,
    "router": "softmax",
    "balance_bias_rate": 0.0,
}
# Options of fields written "kind,option=value" that may be left out; those of one name have one default.
OPTIONS: Config = {
    name: default
    for kinds in CHOICES.values()
    for options_of_kind in kinds.values()
    for name, default in options_of_kind.items()
    if not isinstance(default, type)
}
UNGATED = {
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
    "relu2": "squared_relu",
    "silu": "silu",
    "swish": "silu",
}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
GATED |= {"gelu": "geglu_exact", "relu": "reglu"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One of Hugging Face's model types.

    Attributes:
        model_type: as config.json says it.
        architecture: the class that reads what is exported, or a function of the core's config that names it.
        read: from config.json, with `defaults` where it is silent, and the tensors' names to the core's fields.
        write: the way back.
        weights: a tensor's name to "path: pattern" of our parameter, or several of them that it joins; see
            `names.bind`. "{i}" is the layer, "{e}" the expert. What the core has no parameter for is left out, also
            "path with other: pattern" and "path without other: pattern", by another parameter beside it.
        defaults: Hugging Face's values of keys that config.json may leave out.
        legal: keys that only have these values here.
        renames: pattern and replacement of names that older files, or those of a part of the model, have.
        ignored: patterns of tensors without information, such as tables that are computed.
        copies: tensors that may repeat another one.
        spellings: pattern and replacement of names for each class whose files have others than the table.
    """

    model_type: str
    architecture: str | Callable[[Config], str]
    read: Callable[[Config, Collection[str]], Config]
    write: Callable[[Config], Config]
    weights: Mapping[str, str | tuple[str, ...]]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    legal: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spellings: Mapping[str, tuple[tuple[str, str], ...]] = dataclasses.field(default_factory=dict)

    def architecture_of(self, core: Mapping[str, Any]) -> str:
        """The class that reads a model of the core's config."""
        return self.architecture if isinstance(self.architecture, str) else self.architecture(NEUTRAL | dict(core))

    def name_in_table(self, name: str) -> str:
        """The table's name of a tensor in a file."""
        return _respell(name, self.renames)

    def name_in_file(self, core: Mapping[str, Any], name: str) -> str:
        """The name in the file of a tensor of the table."""
        return _respell(name, self.spellings.get(self.architecture_of(core), ()))

    def from_hugging_face(self, config: Mapping[str, Any], names: Collection[str]) -> Config:
        """The core's fields.

        Args:
            config: the contents of config.json.
            names: the table's, of the tensors: some families say only by them which heads there are.

        Returns:
            Every field of the core that makes the architecture.

        Raises:
            ValueError: the core or the family has no counterpart of a value; it names the key.
        """
        for key, legal in {"quantization_config": (None,), **self.legal}.items():
            if key in config and config[key] not in legal:
                raise no_counterpart(key, config[key], legal)
        return NEUTRAL | self.read({**self.defaults, **config}, names)

    def to_hugging_face(self, core: Mapping[str, Any], names: Collection[str]) -> Config:
        """The contents of config.json.

        Args:
            core: fields of the core; those left out are neutral.
            names: of the tensors.

        Returns:
            What transformers 4 and 5 read.

        Raises:
            ValueError: the family cannot say a field; it names the field.
        """
        said = NEUTRAL | dict(core)
        config = {
            "model_type": self.model_type,
            "architectures": [self.architecture_of(said)],
            **self.write(said),
        }
        for field, value in self.from_hugging_face(config, names).items():
            if canonical(said, field) != canonical({**said, field: value}, field):
                raise ValueError(
                    f"config.model.{field}={said[field]!r} cannot be exported as {self.model_type}, which would have "
                    f"{value!r}; change it, or export as another family"
                )
        return config


def _respell(name: str, spellings: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in spellings:
        name = re.sub(pattern, replacement, name)
    return name


def canonical(core: Config, field: str) -> Any:
    """A field's value such that those of one meaning are equal."""
    value = core[field]
    if field == "head_dim":
        return value or core["d_model"] // core["num_heads"]
    if field == "balance_bias_rate":
        return value > 0  # how fast it learns is no part of the weights
    if not core["num_experts"] and field in ("experts_per_token", "router", "d_expert"):
        return None
    if field == "d_expert":
        return value or core["d_mlp"]
    if field == "layer_pattern":
        return windowed_layers(core)
    return options(value) if isinstance(value, str) else value


def choice(kind: str, **options: Any) -> str:
    """A field that has options: "kind,option=value,...", without the options that are what they always are."""
    said = {name: value for name, value in options.items() if OPTIONS.get(name) != value}
    texts = {n: "/".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for n, v in said.items()}
    return ",".join([kind, *(f"{name}={text}" for name, text in texts.items())])


def options(text: str) -> Config:
    """The options of such a field, and its kind as "kind"."""
    kind, *pairs = (part.strip() for part in text.split(","))
    read: Config = {"kind": kind, **OPTIONS}
    for pair in pairs:
        name, _, value = pair.partition("=")
        numbers = [float(part) for part in value.split("/")]
        read[name] = numbers if "/" in value else int(value) if value.lstrip("-").isdigit() else numbers[0]
    return read


def windowed_layers(core: Config) -> list[bool]:
    """Whether each layer has the window."""
    pattern = (core["layer_pattern"] or "L") if core["window"] else "G"
    return [pattern[i % len(pattern)] == "L" for i in range(core["num_layers"])]


def no_counterpart(key: str, value: Any, legal: Collection[Any]) -> ValueError:
    """The error of a value that only Hugging Face has."""
    return ValueError(f"config.json: {key}={value!r} has no counterpart; use one of {', '.join(map(repr, legal))}")


def read_activation(config: Mapping[str, Any], key: str, table: Mapping[str, str]) -> str:
    """The core's name of an activation."""
    if config[key] not in table:
        raise no_counterpart(key, config[key], tuple(table))
    return table[config[key]]


def write_activation(core: Mapping[str, Any], table: Mapping[str, str]) -> str:
    """Hugging Face's name of an activation."""
    for theirs, ours in table.items():
        if ours == core["activation"]:
            return theirs
    legal = ", ".join(dict.fromkeys(table.values()))
    raise ValueError(f"config.model.activation={core['activation']!r} cannot be exported here; use one of {legal}")


def read_keys(config: Mapping[str, Any], keys: Mapping[str, str]) -> Config:
    """The core's fields that are numbers of config.json; `keys` has their names there."""
    missing = sorted({key for key in keys.values() if config.get(key) is None})
    if missing:
        raise ValueError(f"config.json has no {', '.join(missing)}")
    return {field: config[key] for field, key in keys.items()}


def write_keys(core: Mapping[str, Any], keys: Mapping[str, str]) -> Config:
    """The way back."""
    return {key: core[field] for field, key in keys.items()}
