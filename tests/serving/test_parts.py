"""Rules of the front that need no server."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from scpl_ray.errors import ConfigError
from scpl_ray.models.activation import Activation
from scpl_ray.network import Network
from scpl_ray.serving.guard import _CLIENTS, Buckets
from scpl_ray.serving.inputs import decoded
from scpl_ray.serving.rows import alike, joined, trimmed
from scpl_ray.serving.settings import Settings, is_loopback


def test_a_bucket_empties_and_fills_again():
    now = [0.0]
    buckets = Buckets(2.0, 3, lambda: now[0])
    assert [buckets.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.wait_s("b") == 0, "clients do not share"
    now[0] = 0.5
    assert [buckets.wait_s("a") for _ in range(2)] == [0, 0.5]
    now[0] = 100.0
    assert [buckets.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5], "it holds no more than 3"
    assert Buckets(0, 1).wait_s("a") == Buckets(0, 1).wait_s("a") == 0


def test_buckets_of_many_clients_do_not_fill_the_memory():
    buckets = Buckets(1.0, 1)
    for client in range(_CLIENTS + 50):
        buckets.wait_s(str(client))
    assert len(buckets._seen) == _CLIENTS


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("", False),
        ("192.168.0.1", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_loopback(host: str, own: bool):
    assert is_loopback(host) == own
    if own:
        Settings(host=host)
    else:
        with pytest.raises(ConfigError, match=r"--host.*--token"):
            Settings(host=host)
        Settings(host=host, token="0123456789abcdef")


@pytest.mark.parametrize(("measure", "threshold"), [("confidence", 1.01), ("entropy", 0.7)])
def test_a_threshold_out_of_range_is_named(measure: str, threshold: float):
    with pytest.raises(ConfigError, match=rf"--threshold: {threshold}"):
        Settings(threshold, measure).check_threshold(2)
    Settings(-0.0, measure).check_threshold(2)


def test_samples_of_several_requests_come_apart_as_they_went_in():
    short = Activation(
        torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), (torch.ones(2, 1, 4),)
    )
    long = Activation(
        2 * torch.ones(2, 5, 3), torch.ones(2, 5, dtype=torch.bool), (2 * torch.ones(2, 2, 4),)
    )
    assert alike(short) == alike(long) != alike(Activation(torch.ones(1, 2, 3)))
    batch = joined([short, long])
    assert batch.hidden.shape == (3, 5, 3) and batch.states[0].shape == (2, 3, 4)
    back = trimmed(batch.rows(torch.tensor([0])))
    assert torch.equal(back.hidden, short.hidden) and torch.equal(back.mask, short.mask)  # type: ignore[arg-type]
    back = trimmed(batch.rows(torch.tensor([1, 2])))
    assert torch.equal(back.hidden, long.hidden) and torch.equal(back.states[0], long.states[0])


@torch.no_grad()
def test_a_text_is_answered_the_same_beside_a_longer_one(text_network: Network):
    texts = ["alpha", "xi mu nu xi alpha beta gamma eta zeta", "iota kappa"]
    alone = [text_network.activation(text_network.encode([text])) for text in texts]
    together = text_network(joined(alone))
    for row, one in enumerate(alone):
        for exit, logits in zip(together, text_network(one), strict=True):
            torch.testing.assert_close(exit[row], logits[0])


def image_file(size: tuple[int, int], kind: str = "PNG") -> bytes:
    made = io.BytesIO()
    Image.new("L", size).save(made, kind)
    return made.getvalue()


def test_an_image_is_decoded():
    assert decoded(image_file((7, 3)), 100).size == (7, 3)


def bomb(side: int) -> bytes:
    """A small file whose header speaks of many pixels."""
    content = bytearray(image_file((1, 1)))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="9000 x 9000 pixels are too many"):
        decoded(bomb(9000), 25_000_000)
    with pytest.raises(ValueError, match="not a readable image"):
        decoded(bomb(20_000), 25_000_000)  # beyond Pillow's own limit


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (image_file((9, 9), "TIFF"), "not an image"),
        (image_file((90, 90))[:60], "damaged|readable"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes, words: str):
    with pytest.raises(ValueError, match=words):
        decoded(content, 100_000)


def test_random_damage_gives_an_image_or_a_refusal():
    draw = np.random.default_rng(0)
    good = image_file((8, 8))
    outcomes = set()
    for _ in range(300):
        content = bytearray(good)
        content[draw.integers(len(content))] = draw.integers(256)
        try:
            outcomes.add(type(decoded(bytes(content), 10_000)).__name__)
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes and len(outcomes) == 2
