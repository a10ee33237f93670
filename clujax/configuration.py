"""Configs as files: load one, override its values from the command line, know two of them apart.

A config file is a Python file whose `get_config()` returns an `ml_collections.ConfigDict`; its docstring says the
command, the time and the result to expect. A field that may be left empty is a `config_dict.placeholder(type)`.
"""

import ast
import copy
import difflib
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference

from clujax.errors import ConfigError

_TRUE, _FALSE, _NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null", "")


def load(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked config that the file's `get_config()` returns, with `overrides` applied.

    Args:
        path: a Python file with a function `get_config()`.
        overrides: assignments as `override` takes them.

    Raises:
        ConfigError: no such file, it cannot be run, it has no `get_config()`, or an override does not fit.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        near = _nearest(path.stem, {found.stem: found for found in path.parent.glob("*.py")})
        hint = f" Did you mean {near}?" if near else " `clujax list` shows the configs that are here."
        raise ConfigError(f"config: there is no file {path}.{hint}")
    spec = importlib.util.spec_from_file_location(f"clujax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config: {path} is not a Python file; expected one with a function get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"config: {path} cannot be run: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"config: {path} has no function get_config() that returns an ml_collections.ConfigDict.")
    config = module.get_config()
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config: get_config() of {path} returned {type(config).__name__}; expected ml_collections.ConfigDict."
        )
    return override(config.lock(), overrides)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """A locked copy of `config` with each `key=value` applied; all are checked before any is returned.

    Args:
        config: any ConfigDict, left as it is.
        overrides: `--config.a.b=value`, `--a.b=value` or `a.b=value`. The value is read as the type that the field
            has: numbers, booleans (true/false), tuples (`1,2` or `(1, 2)` or bare words `ga,salun`), strings as they
            stand; `none` empties a placeholder.

    Raises:
        ConfigError: unknown key (the nearest one is named, and its siblings), or a value of another type.

    Example:
        >>> config = ConfigDict({"seed": 0, "train": {"rate": 0.1, "widths": (256, 128)}})
        >>> override(config, ["--train.rate=3e-2", "--config.train.widths=8,4"]).train.to_dict()
        {'rate': 0.03, 'widths': (8, 4)}
        >>> override(config, ["--train.rat=1"])
        Traceback (most recent call last):
            ...
        clujax.errors.ConfigError: unknown config key 'train.rat': did you mean 'train.rate'? ...
    """
    config = copy.deepcopy(config)
    for assignment in overrides:
        key, equals, text = assignment.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError(f"override {assignment!r} has no value; write --{key}=VALUE (with the equals sign).")
        _assign(config, key if key in config else key.removeprefix("config."), text)
    return config.lock()


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Every value under its dotted key, sorted.

    Example:
        >>> flatten(ConfigDict({"seed": 0, "train": {"rate": 0.1}}))
        {'seed': 0, 'train.rate': 0.1}
    """
    flat = {}
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON text, the form that a run keeps beside its results."""
    return json.dumps(config.to_dict(), indent=2, default=_name)


def digest(config: ConfigDict) -> str:
    """Sixteen hexadecimal digits that change with any key or value, not with the order of keys."""
    canonical = json.dumps(config.to_dict(), sort_keys=True, separators=(",", ":"), default=_name)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _name(value: Any) -> str:
    # A function keeps its name, not its address: two processes must agree on a digest.
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else repr(value)


def _nearest(word: str, among: Mapping[str, Any]) -> Any:
    found = difflib.get_close_matches(word, list(among), n=1, cutoff=0.5)
    return among[found[0]] if found else None


def _assign(config: ConfigDict, key: str, text: str) -> None:
    section, parts = config, key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(section, ConfigDict) or part not in section:
            raise ConfigError(_unknown(config, section, key, ".".join(parts[:depth])))
        parent, section = section, section[part]
    if isinstance(section, ConfigDict):
        raise ConfigError(f"config key {key!r} is a section; set one of its keys: {_listed(section, key)}.")
    kind = parent.get_type(parts[-1])
    may_be_none = isinstance(dict(parent.items(preserve_field_references=True))[parts[-1]], FieldReference)
    if may_be_none and text.strip().lower() in _NONE:
        parent[parts[-1]] = None
        return
    try:
        parent[parts[-1]] = _read(text, kind, section)
    except (ValueError, TypeError, SyntaxError) as error:
        raise ConfigError(
            f"config key {key!r} takes {_kind_name(kind)}{' or none' if may_be_none else ''} "
            f"(now {section!r}); got {text!r}."
        ) from error


def _unknown(config: ConfigDict, section: Any, key: str, prefix: str) -> str:
    flat = flatten(config)
    # The whole dotted key first; then its last word anywhere, for someone who forgot the section.
    last = key.split(".")[-1]
    near = _nearest(key, {name: name for name in flat})
    if near is None or near.split(".")[-1] != last:
        near = next((name for name in flat if name.split(".")[-1] == last), near)
    guess = f"did you mean {near!r}? " if near else ""
    if not isinstance(section, ConfigDict):
        return f"unknown config key {key!r}: {guess}{prefix!r} is a single value ({section!r}), not a section."
    where = f"section {prefix!r}" if prefix else "the config"
    return f"unknown config key {key!r}: {guess}Keys of {where}: {_listed(section, prefix)}."


def _listed(section: ConfigDict, prefix: str) -> str:
    dot = f"{prefix}." if prefix else ""
    return ", ".join(f"{dot}{key}.*" if isinstance(section[key], ConfigDict) else f"{dot}{key}" for key in section)


def _kind_name(kind: type) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, f"a {kind.__name__}, e.g. 1,2" if kind in (tuple, list) else kind.__name__)


def _read(text: str, kind: type, current: Any) -> Any:
    if kind is bool:
        word = text.strip().lower()
        if word not in _TRUE + _FALSE:
            raise ValueError(text)
        return word in _TRUE
    if kind is int:
        number = ast.literal_eval(text.strip())
        if isinstance(number, bool) or number != int(number):
            raise ValueError(text)
        return int(number)  # 1e4 is a whole number too
    if kind is float:
        return float(text)
    if kind is str:
        return text
    if kind in (tuple, list):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            if not all(isinstance(item, str) for item in current or ()):
                raise
            value = tuple(word.strip() for word in text.strip("()[] ").split(",") if word.strip())
        return kind(value) if isinstance(value, (tuple, list)) else kind([value])
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
