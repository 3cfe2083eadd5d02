from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from scpl_ray.config import Config, dump_yaml, load_config
from scpl_ray.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "try.yaml"


def failure(source: Any, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def test_defaults() -> None:
    assert load_config(None) == Config() == load_config({})
    assert load_config(None).name == "run"


def test_file(path: Path) -> None:
    path.write_text("method: scpl\nstages: [1, 2]\ntrain:\n  epochs: 7\n")
    config = load_config(path)
    assert (config.method, config.stages, config.train.epochs) == ("scpl", [1, 2], 7)
    assert config.name == "try"
    assert config.train.batch_size == 64
    assert load_config(str(path)) == config


def test_name_of_the_file_gives_way(path: Path) -> None:
    path.write_text("name: mine\n")
    assert load_config(path).name == "mine"
    path.write_text("")
    assert load_config(path) == Config(name="try")


def test_a_number_as_yaml_reads_it(path: Path) -> None:
    path.write_text("optimizer: {lr: 1e-3}\n")  # YAML 1.1: a string
    assert load_config(path).optimizer.lr == 0.001


# --- overrides -----------------------------------------------------------------------------------


def test_overrides(path: Path) -> None:
    path.write_text("train:\n  epochs: 7\n  batch_size: 8\n")
    config = load_config(
        path,
        ["train.epochs=2", "stages=[1, 2]", "data.path=null", "optimizer.lr=1e-2", "name=x=y"[:6]],
    )
    assert (config.train.epochs, config.train.batch_size) == (2, 8)
    assert config.stages == [1, 2]
    assert config.data.path is None
    assert config.optimizer.lr == 0.01
    assert config.name == "x"


def test_the_last_override_wins() -> None:
    assert load_config(None, ["seed=1", "seed=2"]).seed == 2


def test_overrides_leave_their_source_alone() -> None:
    tree = {"train": {"epochs": 7}}
    load_config(tree, ["train.epochs=2"])
    assert tree == {"train": {"epochs": 7}}
    config = load_config(tree)
    assert load_config(config, ["seed=3"]).train.epochs == 7
    assert config.seed == 0


def test_override_of_one_key_of_a_stage(path: Path) -> None:
    path.write_text("optimizer:\n  stages:\n    2: {lr: 0.1, end_lr: 0.01}\n")
    for source in (path, load_config(path)):
        stages = load_config(source, ["optimizer.stages.2.lr=0.5"]).optimizer.stages
        assert list(stages) == [2]
        assert (stages[2].lr, stages[2].end_lr) == (0.5, 0.01)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "override 'seed': write key=value"),
        ("=3", "override '=3': write key=value"),
        ("seed=[1", "override 'seed=[1': the value '[1' is not valid YAML"),
        ("seed.x=1", "seed is 4, it has no keys inside"),
        ("seed=-1", "override 'seed=-1': seed: -1 is not accepted"),
        (
            "train.epohcs=2",
            "override 'train.epohcs=2': unknown key 'train.epohcs' (value 2); allowed here: epochs",
        ),
    ],
)
def test_bad_overrides(override: str, said: str) -> None:
    assert said in failure({"seed": 4}, (override,))


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("seed: 1\ntrian: {epochs: 2}\n", 2, ["unknown key 'trian'", "Did you mean 'train'?"]),
        ("train:\n  epochs: 1\n  epohcs: 2\n", 3, ["'train.epohcs' (value 2)", "'epochs'?"]),
        ("local:\n  exit_head:\n    knd: mlp\n", 3, ["'local.exit_head.knd'", "'kind'?"]),
        ("optimizer:\n  stages:\n    2:\n      rl: 1\n", 4, ["'optimizer.stages.2.rl'", "'lr'?"]),
        ("optimizer:\n  stages:\n    2:\n      lr: -1\n", 4, ["optimizer.stages.2.lr: -1"]),
        ("optimizer:\n  stages:\n    0: {lr: 1}\n", 3, ["optimizer.stages.0: 0"]),
        ("\ntrain:\n  epochs: many\n", 3, ["train.epochs: 'many'", "valid integer", "default: 4"]),
        ("train:\n  epochs: 0\n", 2, ["train.epochs: 0", "greater than or equal to 1"]),
        ("train:\n  epochs: 1.5\n", 2, ["train.epochs: 1.5", "integer"]),
        ("local:\n\n  temperature: 0\n", 3, ["local.temperature: 0", "0.0001"]),
        ("model:\n  dropout: 1.0\n", 2, ["model.dropout: 1.0", "less than 1"]),
        ("method: dascp\n", 1, ["method: 'dascp'", "allowed: bp, scpl, dascpl", "'dascpl'?"]),
        ("train: {drop_last: maybe}\n", 1, ["train.drop_last: 'maybe'", "true, false"]),
        ("stages: [1, 0]\n", 1, ["stages: [1, 0]", "greater than or equal to 1"]),
        ("stages: []\n", 1, ["stages: []", "at least 1 item"]),
        ("model:\n  channels: [1, x]\n", 2, ["model.channels: [1, 'x']"]),
        ("name: a/b\n", 1, ["name: 'a/b'"]),
        ("data: 5\n", 1, ["data: 5"]),
        ("resources:\n  gpus_per_stage: 1.5\n", 2, ["gpus_per_stage: 1.5", "must be whole"]),
        ("seed: 1\nseed: 2\n", 2, ["seed is set twice", ":1)"]),
        ("train:\n  epochs: 1\n  epochs: 2\n", 3, ["train.epochs is set twice", ":2)"]),
        ("seed: 1\n- 2\n", 2, ["not valid YAML"]),
        ("seed: [1\n", 2, ["not valid YAML"]),
        ("seed: !!python/object:os.system {}\n", 1, ["not valid YAML"]),
        ("- 1\n", 1, ["a config is a mapping of keys, not a list"]),
        ("7\n", 1, ["not a int"]),
    ],
)
def test_errors_name_line_key_and_remedy(path: Path, text: str, line: int, said: list[str]) -> None:
    path.write_text(text)
    message = failure(path)
    assert message.startswith(f"{path}:{line}: ")
    assert "\n" not in message
    for part in said:
        assert part in message


def test_all_errors_at_once(path: Path) -> None:
    path.write_text("seed: -1\ntrain:\n  epochs: 0\n")
    lines = failure(path, ("model.width=0",)).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{path}:1: seed")
    assert any(line.startswith(f"{path}:3: train.epochs") for line in lines)
    assert any(line.startswith("override 'model.width=0': model.width") for line in lines)


def test_errors_of_a_dict() -> None:
    assert failure({"train": {"epoch": 1}}).startswith("config: unknown key 'train.epoch'")


def test_heads_must_divide_the_width() -> None:
    message = failure({"model": {"width": 10, "heads": 4}})
    assert message.startswith("model.width: 10 is not a multiple of model.heads: 4")
    assert load_config({"model": {"kind": "lstm", "width": 10, "heads": 4}}).model.width == 10


def test_missing_file(path: Path) -> None:
    path.write_text("")
    message = failure(path.with_name("tri.yaml"))
    assert "no config file" in message
    assert message.endswith("Did you mean 'try.yaml'?")


def test_unreadable_file(path: Path) -> None:
    assert "cannot read config file" in failure(path.parent)
    path.write_bytes(b"\xff\xfe\x00\xd8")
    assert "cannot read config file" in failure(path)


# --- the config itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {
            "name": "x",
            "method": "scpl",
            "stages": [1, 2],
            "seed": 2**62,
            "data": {"source": "file", "path": "ä b.csv"},
            "model": {"options": {"a": [1, {"b": None}]}, "channels": [3]},
            "optimizer": {"lr": 1e-7, "betas": [0.5, 0.6], "stages": {2: {"lr": 0.1}}},
        },
    ],
)
def test_dump_reads_back(path: Path, tree: dict[str, Any]) -> None:
    config = load_config(tree)
    path.write_text(dump_yaml(config))
    assert load_config(path) == config


def test_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.local.exit_head.kind = "linear"


def test_json_schema() -> None:
    schema = Config.model_json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(Config(stages=[1, 2]).model_dump(mode="json"))
    for wrong in ({"trian": {}}, {"train": {"epochs": 0}}, {"method": "bpp"}, {"stages": [0]}):
        assert not validator.is_valid(wrong), wrong
