from __future__ import annotations

import math

import pytest
from pytest import MonkeyPatch

from scpl_ray.engine import placement
from scpl_ray.engine.placement import Placement, at_once, place, shortage, threads_per_stage
from scpl_ray.errors import ResourceError
from tests.unit.tools import config


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "num_cores", lambda: 8)


@pytest.mark.parametrize(
    ("threads", "stages", "wanted"), [(None, 3, 2), (None, 8, 1), (None, 20, 1), (5, 20, 5)]
)
def test_threads(threads: int | None, stages: int, wanted: int) -> None:
    assert threads_per_stage(config(resources__threads=threads), stages) == wanted


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_cpu(device: str) -> None:
    got = place(config(resources__device=device), 3, {"CPU": 8.0})
    assert got == Placement("cpu", 1.0, 0.0, "3 stages on CPU, 2 threads each")


def test_cpu_is_kept_though_there_are_gpus() -> None:
    got = place(config(resources__device="cpu"), 2, {"CPU": 8.0, "GPU": 4.0})
    assert (got.device, got.num_gpus) == ("cpu", 0.0)


@pytest.mark.parametrize(
    ("cpus", "stages", "share"), [(2.0, 4, 0.5), (2.0, 3, 0.5), (1.0, 3, 0.33), (2.0, 2, 1.0)]
)
def test_fewer_cores_than_stages(cpus: float, stages: int, share: float) -> None:
    got = place(config(), stages, {"CPU": cpus})
    assert got.num_cpus == share
    assert ("they share" in got.line) == (cpus < stages)


def test_gpus_for_all() -> None:
    got = place(config(), 3, {"CPU": 8.0, "GPU": 4.0})
    assert got == Placement("cuda", 1.0, 1.0, "3 stages on GPU, 1 GPU each")


@pytest.mark.parametrize(
    ("gpus", "stages", "share"),
    [(1, 2, 0.5), (1, 3, 0.33), (2, 3, 0.5), (2, 4, 0.5), (2, 5, 0.33), (3, 4, 0.5), (4, 5, 0.5)],
)
def test_fewer_gpus_than_stages(gpus: int, stages: int, share: float) -> None:
    got = place(config(), stages, {"CPU": 8.0, "GPU": float(gpus)})
    assert got.device == "cuda"
    assert got.num_gpus == share
    assert f"{gpus} GPUs for {stages} stages: they share" in got.line


@pytest.mark.parametrize("gpus", range(1, 9))
def test_shares_fit_on_whole_gpus(gpus: int) -> None:
    """A share is never split over two GPUs."""
    for stages in range(1, 41):
        got = place(config(), stages, {"CPU": 64.0, "GPU": float(gpus)})
        on_one = math.floor(1 / got.num_gpus + 1e-9)
        assert on_one * gpus >= stages, (stages, got)


@pytest.mark.parametrize("total", [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 0.0}])
def test_gpus_demanded_but_missing(total: dict[str, float]) -> None:
    with pytest.raises(ResourceError, match="resources.device: 'cuda'.*allowed here: auto, cpu"):
        place(config(resources__device="cuda"), 2, total)


@pytest.mark.parametrize(
    ("device", "why"), [("auto", "the cluster has no GPU"), ("cpu", "resources.device is cpu")]
)
def test_gpus_per_stage_without_gpus(device: str, why: str) -> None:
    with pytest.raises(ResourceError, match=f"gpus_per_stage: 0.5.*{why}"):
        place(config(resources__device=device, resources__gpus_per_stage=0.5), 2, {"CPU": 8.0})


@pytest.mark.parametrize(("per_stage", "stages", "gpus"), [(0.5, 4, 2), (2, 2, 4), (0.25, 3, 1)])
def test_gpus_per_stage_that_fit(per_stage: float, stages: int, gpus: int) -> None:
    got = place(
        config(resources__gpus_per_stage=per_stage), stages, {"CPU": 8.0, "GPU": float(gpus)}
    )
    assert got.num_gpus == per_stage


@pytest.mark.parametrize(
    ("per_stage", "stages", "gpus"),
    [(1, 3, 2), (2, 2, 3), (0.5, 5, 2), (0.66, 3, 2), (0.4, 5, 2), (2, 1, 1)],
)
def test_gpus_per_stage_too_much(per_stage: float, stages: int, gpus: int) -> None:
    settings = config(resources__gpus_per_stage=per_stage)
    with pytest.raises(ResourceError, match=f"{stages} stages ask for {per_stage} GPUs each"):
        place(settings, stages, {"CPU": 8.0, "GPU": float(gpus)})


def test_shortage_names_what_is_asked() -> None:
    both = shortage(Placement("cuda", 1.0, 0.5, ""), 4, {"CPU": 1.0}, {"CPU": 8.0, "GPU": 2.0})
    assert both == "CPU: 1 x 4 asked, 1 free, 8 in all; GPU: 0.5 x 4 asked, 0 free, 2 in all"
    assert "GPU" not in shortage(Placement("cpu", 1.0, 0.0, ""), 4, {}, {"CPU": 8.0})


@pytest.mark.parametrize(("gpus", "share"), [(0, 1.0), (2, 1.0), (3, 1.0)])
def test_gpus_may_come_where_nodes_may_join(gpus: int, share: float) -> None:
    settings = config(resources__device="cuda")
    total = {"CPU": 4.0, "GPU": float(gpus)}
    placed = place(settings, 3, total, private=False)
    assert (placed.device, placed.num_gpus) == ("cuda", share)
    assert ("start_timeout_s" in placed.line) == (gpus < 3)
    if gpus == 0:
        with pytest.raises(ResourceError):
            place(settings, 3, total, private=True)
        automatic = place(config(resources__device="auto"), 3, total, private=False)
        assert automatic.device == "cpu"


@pytest.mark.parametrize(
    ("each", "private", "expected"),
    [
        (Placement("cpu", 0.5, 0.0, ""), True, 4.0),
        (Placement("cpu", 1.0, 0.0, ""), True, 4.0),
        (Placement("cpu", 0.5, 0.0, ""), False, 8.0),
        (Placement("cpu", 1.0, 0.0, ""), False, math.inf),
        (Placement("cuda", 0.5, 1.0, ""), True, math.inf),
    ],
)
def test_how_many_compute_at_once(each: Placement, private: bool, expected: float) -> None:
    assert at_once(each, 2, {"CPU": 16.0}, private) == expected
    assert at_once(each, 64, {"CPU": 16.0}, private) >= 1, "a stage at least"
