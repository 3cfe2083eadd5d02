"""Exported networks answer as the run's own does, on real inputs; the folder is read back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

import scpl_ray
from scpl_ray.data.loader import BatchLoader
from scpl_ray.errors import CheckpointError, ConfigError, RunError
from scpl_ray.exporting.check import check, difference
from scpl_ray.exporting.lstm import ScannedBiLSTM
from scpl_ray.exporting.program import exported_program
from scpl_ray.models.activation import Activation
from scpl_ray.models.text import BiLSTM
from scpl_ray.network import Network
from tests.helpers import Fork, cli, run_job, small_config, write_texts

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed (pip install 'scpl-ray[export]')"
)

MODELS = {
    "transformer": {"kind": "transformer", "layers": 1, "width": 8, "heads": 2},
    # Two layers: the states of the first are where the second begins.
    "lstm": {"kind": "lstm", "layers": 2, "width": 8, "embedding_width": 6},
    "digits": {"kind": "convnet", "channels": [8, 8]},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    texts = write_texts(folder / "texts.jsonl", 500)
    for name, model in MODELS.items():
        tree = small_config(
            texts, folder / "runs", pipeline__engine="local", name=name, train__epochs=1
        )
        data = {"source": "digits"} if name == "digits" else tree["data"]
        run_job(tree | {"data": data, "model": model})
    return folder


def real_inputs(network: Network) -> dict[str, torch.Tensor]:
    """100 samples of the test split, as one batch; texts of many lengths are padded."""
    config = network.config
    loader = BatchLoader.prepare(
        config.data, config.seed, 32, 100, tokenizer=network.info.tokenizer or None
    )
    batch = loader.eval_batch("test", 0)
    assert len(batch.labels) == 100
    if network.info.kind == "text":
        assert len(np.unique(batch.inputs["mask"].sum(1))) > 5
    return {name: torch.from_numpy(array) for name, array in batch.inputs.items()}


@pytest.mark.parametrize("name", MODELS)
def test_torch_export_on_100_real_inputs(place: Path, name: str) -> None:
    """The file needs torch alone."""
    path = place / f"{name}.pt2"
    made = scpl_ray.export(place / "runs" / name, "torch", path)
    assert made.path == path and made.inputs == 100 and made.said == []
    facts = {"scpl_ray.json": ""}
    module = torch.export.load(path, extra_files=facts).module()
    network = scpl_ray.load(place / "runs" / name)
    inputs = real_inputs(network)
    assert difference(network, lambda given: module(**given), inputs) <= 1e-5
    told = json.loads(facts["scpl_ray.json"])
    assert told["exits"] == [f"exit_{k}" for k in network.exits]
    assert told["labels"] == list(network.info.label_names)
    assert "scpl_ray" not in str(type(module).__mro__)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_on_100_real_inputs(place: Path, name: str) -> None:
    path = place / f"{name}.onnx"
    if name == "digits":
        result = cli("export", name, "--to", "onnx", "--output", path, cwd=place)
        assert result.returncode == 0, result.stderr
        assert "read back and compared on 100 made-up inputs" in result.stdout
    else:
        scpl_ray.export(place / "runs" / name, "onnx", path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    network = scpl_ray.load(place / "runs" / name)
    names = [output.name for output in session.get_outputs()]
    assert names == [f"exit_{k}" for k in network.exits]

    def answer(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = session.run(names, {k: t.numpy() for k, t in given.items()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    inputs = real_inputs(network)
    assert difference(network, answer, inputs) <= 1e-5
    assert difference(network, answer, {k: t[:1] for k, t in inputs.items()}) <= 1e-5
    axes = [i.shape[0] for i in session.get_inputs()]
    assert set(axes) == {"batch"}
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["scpl_ray.json"])["labels"] == list(network.info.label_names)
    assert ("tokenizer.json" in kept) == (name != "digits")


def test_the_scanned_lstm_is_the_packed_one() -> None:
    torch.manual_seed(0)
    first, second = BiLSTM(5, 4, 0.0).eval(), BiLSTM(8, 4, 0.0).eval()
    lengths = [6, 1, 4, 0, 3]
    hidden = pad_sequence([torch.randn(max(n, 1), 5) for n in lengths], batch_first=True)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    for given in (Activation(hidden, mask), Activation(hidden, None)):
        with torch.no_grad():
            packed = second(first(given))
            scanned = ScannedBiLSTM(second)(ScannedBiLSTM(first)(given))
        assert torch.allclose(scanned.hidden, packed.hidden, atol=1e-6)
        for own, expected in zip(scanned.states, packed.states, strict=True):
            assert torch.allclose(own, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["transformer", "digits"])
def test_the_folder_is_read_back_and_its_card_works(place: Path, name: str) -> None:
    folder = place / f"hf-{name}"
    options = ("--to", "huggingface", "--output", folder, "--license", "cc-by-4.0")
    if name == "digits":
        said = Fork("export", name, *options, cwd=place).end()
        assert "read back and compared on 100 made-up inputs" in said
    else:
        scpl_ray.export(place / "runs" / name, "huggingface", folder, license="cc-by-4.0")
    assert str(place) not in "".join(
        path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md")
    ), "paths of this machine stay here"
    network, again = scpl_ray.load(place / "runs" / name), scpl_ray.load(folder)
    inputs = real_inputs(network)
    with torch.no_grad():
        for own, expected in zip(again(inputs), network(inputs), strict=True):
            assert torch.equal(own, expected)
    assert again.info.label_names == network.info.label_names
    card = (folder / "README.md").read_text()
    summary = json.loads((place / "runs" / name / "summary.json").read_text())
    for row in summary["exits"]:
        assert f"| {100 * row['test_accuracy']:.2f} % |" in card
    for word in ("license: cc-by-4.0", "`dascpl`", "Apache-2.0", summary["data"]["name"]):
        assert word in card
    # The card's own example, run where it says: in the folder.
    Image.new("L", (20, 20)).save(folder / "image.png")
    code = re.search(r"```python\n(.*?)```", card, re.S)
    assert code is not None
    shown = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=folder, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) == (1 if name == "digits" else 2)
    assert all(line.split()[0] in network.info.label_names for line in lines)


def test_a_damaged_folder(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    scpl_ray.export(place / "runs/lstm", "huggingface", folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match="damaged, or written by another version"):
        scpl_ray.load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"not whole: .*model.safetensors"):
        scpl_ray.load(folder)


def test_a_network_of_transformers_needs_no_path_any_more(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    texts = write_texts(tmp_path / "texts.jsonl")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tree = small_config(
        texts, tmp_path / "runs", pipeline__engine="local", name="bert", train__epochs=1
    )
    images = transformers.ViTConfig(**small, image_size=8, patch_size=4, num_channels=1)
    transformers.ViTModel(images).save_pretrained(tmp_path / "vit")
    model = {"kind": "huggingface", "path": str(tmp_path / "vit")}
    run_job(tree | {"data": {"source": "digits"}, "model": model})
    scpl_ray.export(tmp_path / "runs/bert", "huggingface", tmp_path / "out")
    (tmp_path / "vit").rename(tmp_path / "gone")
    again = scpl_ray.load(tmp_path / "out")
    assert again.config.model.path is None and len(again.exits) == 3


@pytest.mark.parametrize(
    "to, output, words",
    [
        ("onnx", "a.pt2", "should end in .onnx"),
        ("torch", "nowhere/a.pt2", "no folder"),
        ("huggingface", "runs", "exists"),
        ("huggingface", "a.onnx", "writes a folder"),
    ],
)
def test_places_that_cannot_be(place: Path, to: str, output: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scpl_ray.export(place / "runs/lstm", to, place / output)  # type: ignore[arg-type]


def test_overwrite_leaves_alone_what_no_export_made(place: Path) -> None:
    with pytest.raises(ConfigError, match="no export made"):
        scpl_ray.export(place / "runs/lstm", "huggingface", place / "runs", overwrite=True)
    assert (place / "runs/lstm/summary.json").is_file()


def test_an_answer_that_differs_is_an_error(place: Path) -> None:
    network = scpl_ray.load(place / "runs/digits")

    def wrong(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            found = network(given)
        return {f"exit_{k}": own + 1e-4 for k, own in zip(network.exits, found, strict=True)}

    with pytest.raises(RunError, match="answers otherwise than the network"):
        check(network, wrong)


def test_layers_that_decide_by_values_are_named(place: Path) -> None:
    network = scpl_ray.load(place / "runs/digits")

    class Choosy(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden if float(hidden.mean()) > 0 else -hidden

    next(network.numbered()).stack[0] = Choosy()
    with pytest.raises(RunError, match="cannot be exported: .* --to huggingface"):
        exported_program(network)
