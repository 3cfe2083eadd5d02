"""YAML and dotted overrides -> `Config`, with errors that name file, line, key and remedy."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from scpl_ray.config.schema import Config
from scpl_ray.errors import ConfigError, nearest

Key = tuple[str, ...]


def load_config(
    source: str | Path | dict[str, Any] | Config | None, overrides: Sequence[str] = ()
) -> Config:
    """Reads and validates a configuration.

    Args:
        source: a YAML file, a (nested) dict, a finished `Config`, or None for the defaults.
        overrides: dotted `key=value` pairs; the value is read as YAML.

    Returns:
        The validated, frozen config. Without a `name`, it is the file's stem.

    Raises:
        ConfigError: naming file, line, key, value, what is allowed, and the nearest match.
    """
    origins: dict[Key, str] = {}
    tree: dict[str, Any] = {}
    if isinstance(source, Config):
        tree = source.model_dump(exclude_unset=True)
    elif isinstance(source, dict):
        tree = _copy(source)
    elif source is not None:
        tree, origins = _read_yaml(Path(source))
        tree.setdefault("name", Path(source).stem)
    for text in overrides:
        _apply_override(tree, origins, text)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_word(dict(e), tree, origins) for e in _relevant(error)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def dump_yaml(config: Config) -> str:
    """Returns the resolved config as YAML that `load_config` reads back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _copy(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        raise ConfigError(f"no config file {path}; give the path of a YAML file.{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config file {path}: {error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not valid YAML: {problem}; mend the syntax there") from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}:1: a config is a mapping of keys, not a {type(tree).__name__}")
    origins: dict[Key, str] = {}
    _mark_lines(node, (), path, origins)
    return tree, origins


def _mark_lines(node: yaml.Node | None, key: Key, path: Path, origins: dict[Key, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            child = (*key, str(name.value))
            if child in origins:
                raise ConfigError(
                    f"{path}:{name.start_mark.line + 1}: {'.'.join(child)} is set twice; "
                    f"keep one (the other: {origins[child]})"
                )
            origins[child] = f"{path}:{name.start_mark.line + 1}"
            _mark_lines(value, child, path, origins)


def _apply_override(tree: dict[str, Any], origins: dict[Key, str], text: str) -> None:
    name, equals, raw = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"override {text!r}: write key=value, e.g. train.epochs=2")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise ConfigError(f"override {text!r}: the value {raw!r} is not valid YAML") from None
    key = tuple(name.split("."))
    node = tree
    for depth, part in enumerate(key[:-1]):
        # Stage numbers are integers in YAML.
        child = node.setdefault(next((k for k in node if str(k) == part), part), {})
        if not isinstance(child, dict):
            outer = ".".join(key[: depth + 1])
            raise ConfigError(f"override {text!r}: {outer} is {child!r}, it has no keys inside")
        node = child
    node[key[-1]] = value
    origins[key] = f"override {text!r}"


def _relevant(error: ValidationError) -> list[Any]:
    """Of a union's several complaints about one key, keeps the last (its most general form)."""
    by_key: dict[Key, Any] = {}
    for item in error.errors(include_url=False):
        by_key[_key_of(item["loc"])] = item
    return list(by_key.values())


def _key_of(loc: tuple[int | str, ...]) -> Key:
    """Drops what pydantic adds to a location for union members and list positions."""
    key: list[str] = []
    model: type[BaseModel] | None = Config
    for part in loc:
        if model is None:
            # Inside optimizer.stages: the number of the stage, then what it sets.
            if len(key) == 4 or part == "[key]":
                break
            key.append(str(part))
            continue
        key.append(str(part))
        model = _section(model, str(part))
        if model is None and tuple(key) != ("optimizer", "stages"):
            break
    return tuple(key)


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    kind = field.annotation if field else None
    for option in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _word(item: dict[str, Any], tree: dict[str, Any], origins: dict[Key, str]) -> str:
    key = _key_of(item["loc"])
    where = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), "config")
    dotted = ".".join(key)
    if item["type"] == "extra_forbidden":
        allowed = _fields_at(item["loc"][:-1])
        return (
            f"{where}: unknown key {'.'.join(str(p) for p in item['loc'])!r} "
            f"(value {item['input']!r}); allowed here: "
            f"{', '.join(allowed)}.{nearest(str(item['loc'][-1]), allowed)}"
        )
    if not dotted:
        return f"{where}: {_reason(item)}".replace("config: ", "", 1)
    value = _value_at(tree, key, item["input"])
    choices = _choices(key)
    hint = ""
    if choices:
        hint = f"; allowed: {', '.join(choices)}.{nearest(str(value), choices)}"
    elif (default := _default(key)) is not None:
        hint = f" (default: {default!r})"
    return f"{where}: {dotted}: {value!r} is not accepted: {_reason(item)}{hint}"


def _reason(item: dict[str, Any]) -> str:
    text = str(item["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:] if not text.startswith("Input") else "it" + text[5:]


def _value_at(tree: Any, key: Key, fallback: Any) -> Any:
    for part in key:
        if not isinstance(tree, dict) or part not in tree:
            return fallback
        tree = tree[part]
    return tree


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in loc:
        found = _section(model, str(part))
        if found is None:
            from scpl_ray.config.schema import GrownLayers, OptimizerOverride

            inner = GrownLayers if part == "grown" else OptimizerOverride
            return list(inner.model_fields)
        model = found
    return list(model.model_fields)


def _annotation(key: Key) -> tuple[Any, Any]:
    model: type[BaseModel] | None = Config
    for part in key[:-1]:
        model = _section(model, part) if model else None
    field = model.model_fields.get(key[-1]) if model else None
    return (field.annotation, field.get_default()) if field else (None, None)


def _choices(key: Key) -> list[str]:
    kind = _annotation(key)[0]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            return [str(a) for a in typing.get_args(option)]
    return ["true", "false"] if kind is bool else []


def _default(key: Key) -> Any:
    default = _annotation(key)[1]
    return None if default is None or repr(default) == "PydanticUndefined" else default
