from __future__ import annotations

from typing import Any

import pytest

from scpl_ray.config import load_config
from scpl_ray.models.keys import _READ, without_effect
from scpl_ray.models.registry import KINDS


def test_every_kind_says_what_it_reads() -> None:
    assert set(_READ) == set(KINDS)


@pytest.mark.parametrize(
    ("model", "data", "kind", "wanted"),
    [
        ({"kind": "huggingface", "width": 64}, {}, "text", ["model.width"]),
        ({"kind": "huggingface", "path": "x", "pretrained": False}, {}, "text", []),
        ({"kind": "huggingface", "path": "x"}, {"lowercase": False}, "text", ["data.lowercase"]),
        ({"kind": "huggingface"}, {"lowercase": False}, "text", []),
        (
            {"kind": "vgg8", "dropout": 0.3, "heads": 2},
            {},
            "image",
            ["model.heads", "model.dropout"],
        ),
        ({"kind": "convnet", "dropout": 0.3}, {}, "image", []),
        ({"kind": "transformer", "heads": 2}, {}, "text", []),
        ({"kind": "lstm", "heads": 2, "path": "x"}, {}, "text", ["model.path", "model.heads"]),
        ({"factory": "a:b", "options": {"c": 1}}, {}, "text", []),
        ({"factory": "a:b", "word_vectors": "v"}, {}, "text", ["model.word_vectors"]),
    ],
)
def test_keys_without_effect(
    model: dict[str, Any], data: dict[str, Any], kind: str, wanted: list[str]
) -> None:
    found = without_effect(load_config({"model": model, "data": data}), kind)
    assert [line.split()[0] for line in found] == wanted
    assert all("has no effect" in line for line in found)


def test_pooling_without_feature_maps() -> None:
    own = load_config({"local": {"pool": 2}, "model": {"kind": "huggingface"}})
    assert "local.pool has no effect" in without_effect(own, "image")[0]
    assert (
        without_effect(load_config({"local": {"pool": 2}, "model": {"kind": "vgg8"}}), "image")
        == []
    )
