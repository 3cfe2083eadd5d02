"""What a run takes from the Hugging Face package `transformers`: configuration and tokenizer.

The network itself is in `models.huggingface`. The package is an extra, imported on first use.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scpl_ray.config.schema import Config, ModelConfig
from scpl_ray.data.hub import why_unreachable
from scpl_ray.errors import ConfigError, unknown

# Encoders whose layers take (hidden, mask) alone; a test compares each with the whole network.
ENCODERS = (
    *("bert", "roberta", "distilbert", "electra", "camembert", "xlm-roberta", "ernie"),
    *("data2vec-text", "roberta-prelayernorm", "bert-generation"),
    *("vit", "deit", "vit_msn", "ijepa", "dinov2", "dinov2_with_registers"),
)
_HUB_TIMEOUT_S = 4.0
# The extra in pyproject.toml says the same.
_OLDEST = (5, 20)


def package(name: str = "transformers") -> Any:
    """Imports `transformers`, or a module of it.

    Raises:
        ConfigError: it is not installed, or too old.
    """
    try:
        found = importlib.import_module(name)
        version = importlib.import_module("transformers").__version__
    except ImportError as error:
        raise ConfigError(
            f"model.kind: 'huggingface' needs the package transformers ({error}): "
            "pip install 'scpl-ray[huggingface]'"
        ) from error
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise ConfigError(
            f"model.kind: 'huggingface' needs transformers {_OLDEST[0]}.{_OLDEST[1]} or newer, and "
            f"{version} is installed: pip install -U 'scpl-ray[huggingface]'"
        )
    return found


def read_config(model: ModelConfig, defaults: dict[str, Any] | None = None) -> Any:
    """Reads the configuration of `model.path`, or makes one of `model.options` alone.

    Args:
        model: `path` and `options` are read.
        defaults: options where there is no path: what the data asks for.

    Returns:
        A `transformers` configuration, one's own copy.

    Raises:
        ConfigError: it cannot be had, an option is unknown, or the type is not one of ENCODERS.
    """
    options = dict(model.options)
    if model.path is None:
        if "model_type" not in options:
            raise ConfigError(
                "model.path: say which network: a local folder or a Hub id; or, for one from its "
                f"configuration alone, model.options.model_type (allowed: {', '.join(ENCODERS)})"
            )
        if options["model_type"] not in ENCODERS:
            raise ConfigError(
                f"model.options: {unknown('model_type', options['model_type'], ENCODERS)}"
            )
        options = (defaults or {}) | options
    # Of the same configuration several times in each process.
    return copy.deepcopy(_config(model.path, json.dumps(options, sort_keys=True)))


@functools.lru_cache(maxsize=16)
def _config(path: str | None, options_json: str) -> Any:
    auto, options = package().AutoConfig, json.loads(options_json)
    make: Callable[..., Any]
    if path is None:
        kind = options.pop("model_type")
        make = functools.partial(auto.for_model, kind)
        plain = make()
    else:
        make = functools.partial(auto.from_pretrained, path, **where(path))
        try:
            plain = make()
        except (OSError, ValueError) as error:
            raise ConfigError(cannot_be_had(path, "configuration", error)) from error
        kind = plain.model_type
        if kind not in ENCODERS:
            raise ConfigError(
                f"model.path: {path!r}: {unknown('model_type', kind, ENCODERS)} Cut another "
                "network by a model.factory of your own"
            )
    # The package itself takes any.
    keys = {**plain.to_dict(), **plain.attribute_map}
    for key in options:
        if key not in keys:
            raise ConfigError(f"model.options: {unknown('key', key, sorted(keys))}")
    try:
        return make(**options)
    except Exception as error:
        raise ConfigError(
            f"model.options: {json.dumps(options)} is not accepted by {kind}: {_short(error)}"
        ) from error


def input_kind(hf_config: Any) -> str:
    """What the network takes: "text" or "image"."""
    return "image" if hasattr(hf_config, "image_size") else "text"


def own_tokenizer(config: Config) -> str | None:
    """The tokenizer that a text network was made with, as JSON, cut at `data.max_len`.

    Args:
        config: `model` and `data` are read.

    Returns:
        None where the network has none of its own: other kinds, images, or a network from
        `model.options` alone, which takes the vocabulary of the data.

    Raises:
        ConfigError: there is a network, but its tokenizer cannot be had.
    """
    model, longest = config.model, config.data.max_len
    if model.factory or model.kind != "huggingface" or model.path is None:
        return None
    if input_kind(read_config(model)) == "image":
        return None
    try:
        found = package().AutoTokenizer.from_pretrained(model.path, **where(model.path))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(cannot_be_had(model.path, "tokenizer", error)) from error
    backend = getattr(found, "backend_tokenizer", None)
    # Without a file, the package makes an empty one that knows its marks alone.
    if backend is None or not set(backend.get_vocab()) - set(found.all_special_tokens):
        raise ConfigError(
            f"model.path: {model.path!r} has no tokenizer of its own (tokenizer.json), and other "
            "token ids would mean other words: put its tokenizer's files there; or leave "
            "model.path out and describe the network in model.options: it then takes the "
            "vocabulary of the data"
        )
    marks = backend.num_special_tokens_to_add(False)
    if longest <= marks:
        raise ConfigError(
            f"data.max_len: {longest} leaves no room for words: the tokenizer of {model.path!r} "
            f"adds {marks} marks to each text"
        )
    backend.enable_truncation(longest)
    backend.no_padding()
    return str(backend.to_str())


def where(path: str) -> dict[str, Any]:
    """Keywords for `from_pretrained`: whether the network may be asked."""
    return {"local_files_only": Path(path).is_dir() or bool(_unreachable())}


@functools.lru_cache(maxsize=1)
def _unreachable() -> str:
    return why_unreachable(_HUB_TIMEOUT_S)


def cannot_be_had(path: str, what: str, error: Exception) -> str:
    """Words why a file of `model.path` cannot be read."""
    if Path(path).is_dir():
        return f"model.path: the {what} of the folder {path!r} cannot be read: {_short(error)}"
    problem = _unreachable()
    if not problem:
        return f"model.path: the {what} of {path!r} cannot be had from the Hub: {_short(error)}"
    return (
        f"model.path: {path!r} is no folder here, the Hugging Face Hub cannot be reached "
        f"({problem}), and the {what} is not in the local cache; give a folder that holds it"
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' ...')}"
