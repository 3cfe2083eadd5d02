"""Bad configs, data and calls through the real command line: one clear message, nothing left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers import cli, small_config, write_texts

LOCAL = "pipeline.engine=local"

# name, lines written to bad.yaml on top of a good config, overrides, words in the message
BAD_CONFIGS: list[tuple[str, dict, list[str], list[str]]] = [
    (
        "unknown_section",
        {"trian": {"epochs": 2}},
        [],
        ["bad.yaml:", "trian", "Did you mean 'train'"],
    ),
    (
        "unknown_key",
        {"train": {"epoch": 2}},
        [],
        ["train.epoch", "value 2", "Did you mean 'epochs'"],
    ),
    ("wrong_type", {"train": {"epochs": "many"}}, [], ["train.epochs", "'many'", "integer"]),
    ("out_of_range", {"train": {"batch_size": 0}}, [], ["train.batch_size", "0", "greater than"]),
    ("bad_method", {"method": "dascl"}, [], ["method", "'dascl'", "Did you mean 'dascpl'"]),
    (
        "bad_head",
        {"local": {"projection_head": {"kind": "mpl"}}},
        [],
        ["projection_head.kind", "'mpl'", "mlp"],
    ),
    ("temperature", {"local": {"temperature": 0}}, [], ["local.temperature", "0", "greater than"]),
    ("share_of_one", {"data": {"validation": 1.0}}, [], ["data.validation", "1.0", "less than"]),
    ("heads_do_not_divide", {"model": {"heads": 3}}, [], ["model.width", "16", "model.heads", "3"]),
    ("bad_name", {"name": "a/b"}, [], ["name", "'a/b'"]),
    ("override_without_value", {}, ["train.epochs"], ["train.epochs", "key=value"]),
    ("override_typo", {}, ["train.bacth_size=3"], ["train.bacth_size", "3", "batch_size"]),
    ("override_type", {}, ["seed=x"], ["seed=x", "seed", "'x'", "integer"]),
    ("stages_do_not_add_up", {"stages": [2, 3]}, [], ["stages", "[2, 3]", "5", "4"]),
    ("too_many_stages", {"stages": 9}, [], ["stages", "9", "1 to 4"]),
    ("stages_empty", {"stages": []}, [], ["stages", "[]"]),
    (
        "unknown_kind",
        {"model": {"kind": "transfomer"}},
        [],
        ["model.kind", "'transfomer'", "transformer"],
    ),
    (
        "kind_does_not_fit",
        {"model": {"kind": "convnet", "channels": [4, 4]}, "stages": 2},
        [],
        ["model.kind", "convnet", "transformer"],
    ),
    (
        "optimizer_of_no_stage",
        {"optimizer": {"stages": {7: {"lr": 1.0}}}},
        [],
        ["optimizer.stages", "7", "1 to 4"],
    ),
    (
        "factory_form",
        {"model": {"factory": "thing"}},
        [],
        ["model.factory", "'thing'", "module:function"],
    ),
    (
        "factory_module",
        {"model": {"factory": "no_such_module:build"}},
        [],
        ["model.factory", "no_such_module"],
    ),
    (
        "unknown_source",
        {"data": {"source": "imbd", "path": None}},
        [],
        ["data.source", "'imbd'", "Did you mean 'imdb'"],
    ),
    ("missing_file", {"data": {"path": "nothing.csv"}}, [], ["data.path", "nothing.csv"]),
    ("unknown_extension", {"data": {"path": "bad.yaml"}}, [], ["data.path", "bad.yaml", ".csv"]),
    ("missing_column", {"data": {"text_column": "txt"}}, [], ["data.text_column", "'txt'", "text"]),
    (
        "missing_label_column",
        {"data": {"label_column": "lable"}},
        [],
        ["data.label_column", "'lable'", "label"],
    ),
    (
        "word_vectors",
        {"model": {"word_vectors": "none.vec"}},
        [],
        ["model.word_vectors", "none.vec"],
    ),
    (
        "no_gpu_here",
        {"resources": {"device": "cpu", "gpus_per_stage": 1.5}},
        [],
        ["resources.gpus_per_stage", "1.5", "whole"],
    ),
    ("two_values", {"train": {"precision": "fp16"}}, [], ["train.precision", "'fp16'", "bf16"]),
    ("not_a_bool", {"data": {"pool": "maybe"}}, [], ["data.pool", "'maybe'", "true"]),
]


def merged(base: dict, extra: dict) -> dict:
    return base | {
        k: merged(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in extra.items()
    }


def check(result, code: int, words: list[str], folder: Path) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for word in words:
        assert word in result.stderr, (word, result.stderr)
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())


@pytest.mark.parametrize(
    ("extra", "overrides", "words"), [c[1:] for c in BAD_CONFIGS], ids=[c[0] for c in BAD_CONFIGS]
)
def test_bad_config(extra: dict, overrides: list[str], words: list[str], tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.jsonl")
    good = small_config(Path("texts.jsonl"), Path("runs"), pipeline__engine="local")
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(merged(good, extra)))
    check(cli("train", "bad.yaml", *overrides, cwd=tmp_path), 2, words, tmp_path)


BAD_FILES = [
    ("empty.csv", "", ["data.path", "empty.csv"]),
    ("one_class.csv", "text,label\n" + "a b,x\n" * 40, ["data.label_column", "one class"]),
    ("broken.jsonl", '{"text": "a", "label": \n{{{', ["data.path", "broken.jsonl"]),
    ("numbers.csv", "text,label\n" + "1,a\n2,b\n" * 40, ["data.text_column", "'text'"]),
    ("holes.csv", "text,label\n" + "a b,x\nc d,\ne f,y\n" * 20, ["data.label_column"]),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES, ids=[f[0] for f in BAD_FILES])
def test_bad_data_file(name: str, content: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    tree = small_config(Path(name), Path("runs"), pipeline__engine="local")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    check(cli("train", "job.yaml", cwd=tmp_path), 2, words, tmp_path)


def test_bad_calls(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("method: dascpl\nmethod: scpl\n")
    (tmp_path / "syntax.yaml").write_text("train: [1\nx: 2")
    (tmp_path / "list.yaml").write_text("- 1\n")
    for args, words in [
        (["trian", "job.yaml"], ["trian", "Did you mean 'train'"]),
        (["train"], ["CONFIG"]),
        (["train", "jbo.yaml"], ["jbo.yaml", "Did you mean 'job.yaml'"]),
        (["train", "job.yaml"], ["job.yaml:2", "method", "twice"]),
        (["train", "syntax.yaml"], ["syntax.yaml:", "YAML"]),
        (["train", "list.yaml"], ["list.yaml:1", "mapping"]),
        (["train", "job.yaml", "--engine", "locl"], ["locl", "local"]),
        (["eval", "nothing"], ["nothing", "no run"]),
    ]:
        check(cli(*args, cwd=tmp_path), 2, words, tmp_path)


def test_unreachable_cluster_is_said_in_seconds(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.jsonl")
    tree = small_config(Path("texts.jsonl"), Path("runs"), resources__address="127.0.0.1:1")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    result = cli("train", "job.yaml", cwd=tmp_path, timeout=40)
    check(result, 2, ["resources.address", "127.0.0.1:1"], tmp_path)


def test_names_and_damage(tmp_path: Path) -> None:
    """A taken name, a folder that is no run, a run without a checkpoint, a damaged checkpoint."""
    write_texts(tmp_path / "texts.jsonl")
    tree = small_config(
        Path("texts.jsonl"), Path("runs"), pipeline__engine="local", train__epochs=1
    )
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    done = cli("train", "job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/job/summary.json").read_text())

    taken = cli("train", "job.yaml", cwd=tmp_path)
    assert taken.returncode == 2
    assert "'job' is taken" in taken.stderr and "--overwrite" in taken.stderr
    assert json.loads((tmp_path / "runs/job/summary.json").read_text()) == summary

    (tmp_path / "runs/mine").mkdir()
    (tmp_path / "runs/mine/letter.txt").write_text("dear")
    foreign = cli("train", "job.yaml", "--name", "mine", "--overwrite", cwd=tmp_path)
    assert foreign.returncode == 2 and "not the folder of a run" in foreign.stderr
    assert (tmp_path / "runs/mine/letter.txt").read_text() == "dear"

    near = cli("eval", "jop", cwd=tmp_path)
    assert near.returncode == 2 and "Did you mean 'job'" in near.stderr

    stage = tmp_path / "runs/job/checkpoint/stage-2.safetensors"
    content = bytearray(stage.read_bytes())
    content[-1] ^= 1
    stage.write_bytes(bytes(content))
    damaged = cli("eval", "job", cwd=tmp_path)
    assert damaged.returncode == 2
    assert "stage-2.safetensors" in damaged.stderr and "checksum" in damaged.stderr
    stage.unlink()
    missing = cli("eval", "runs/job", cwd=tmp_path)
    assert missing.returncode == 2 and "stage-2.safetensors" in missing.stderr

    again = cli("train", "job.yaml", "--overwrite", cwd=tmp_path)
    assert again.returncode == 0
    assert (
        json.loads((tmp_path / "runs/job/summary.json").read_text())["weights_sha256"]
        == (summary["weights_sha256"])
    )
