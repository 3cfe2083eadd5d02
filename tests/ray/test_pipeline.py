"""The pipeline at work: order, back-pressure, and what happens when a stage fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

import scpl_ray
from scpl_ray.errors import (
    DataError,
    NonFiniteLossError,
    PipelineTimeoutError,
    ResourceError,
    StageError,
)
from scpl_ray.report import Reporter
from tests.helpers import small_config

pytestmark = pytest.mark.usefixtures("ray_instance")
LAYERS = "tests.ray.layers_for_tests"


def own_model(tmp_path: Path, function: str, engine: str = "ray", **options: object) -> dict:
    tree = small_config(Path("unused"), tmp_path, name=f"{function}-{engine}")
    tree["data"] = {"source": "digits", "limit": 300}
    tree["model"] = {"factory": f"{LAYERS}:{function}", "options": options}
    tree["pipeline"] = {"engine": engine}
    return tree


def train(tree: dict) -> scpl_ray.TrainedRun:
    return scpl_ray.train(tree, reporter=Reporter())


@pytest.mark.parametrize("engine", ["ray", "local"])
def test_first_exception_of_a_stage_ends_the_run(engine: str, tmp_path: Path) -> None:
    tree = own_model(tmp_path, "failing", engine, step=4, how="raise")
    with pytest.raises(StageError) as caught:
        train(tree)
    error = caught.value
    assert (error.stage, error.step) == (2, 4)
    assert "ArithmeticError: a broken layer" in str(error)
    assert "[32, 8]" in error.shapes
    assert "layers_for_tests.py" in error.details, "the stage's own traceback"
    assert (tmp_path / f"failing-{engine}" / "summary.json").read_text().count("failed") == 1


def test_nan_loss_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        train(own_model(tmp_path, "failing", step=3, how="nan"))
    assert (caught.value.stage, caught.value.step) == (2, 3)


def test_a_hanging_stage_is_named(tmp_path: Path) -> None:
    tree = own_model(tmp_path, "failing", step=2, how="sleep")
    tree["pipeline"]["step_timeout_s"] = 5
    tree["fault_tolerance"] = {"max_failures_per_batch": 0}
    start = time.monotonic()
    with pytest.raises(
        PipelineTimeoutError, match=r"stage 2 .*step=2.*step_timeout_s = 5"
    ) as caught:
        train(tree)
    assert time.monotonic() - start < 40
    assert "[32, 8]" in str(caught.value), "the shapes of its last input"


def test_a_killed_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        train(own_model(tmp_path, "failing", step=3, how="die"))
    assert caught.value.stage == 2
    assert "process ended unexpectedly" in str(caught.value)


def test_a_failing_data_process_is_told_as_such(tmp_path: Path) -> None:
    tree = small_config(tmp_path / "nothing.csv", tmp_path / "runs")
    with pytest.raises(DataError, match="nothing.csv"):
        train(tree)
    assert not (tmp_path / "runs").exists()


def test_demand_that_cannot_be_met(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"GPU 0"):
        train(small_config(texts, tmp_path / "runs", resources__device="cuda"))
    assert not (tmp_path / "runs").exists()


def test_stages_that_do_not_start_in_time(texts: Path, tmp_path: Path) -> None:
    @ray.remote(num_cpus=7)
    class Greedy:
        def ready(self) -> bool:
            return True

    greedy = Greedy.remote()
    ray.get(greedy.ready.remote())
    tree = small_config(texts, tmp_path / "runs", pipeline__start_timeout_s=6)
    with pytest.raises(ResourceError, match=r"CPU: 1 x 4 asked, .* free, 8 in all"):
        train(tree)
    ray.kill(greedy)


def test_nothing_writes_into_a_shared_activation(tmp_path: Path) -> None:
    local = train(own_model(tmp_path, "in_place", "local")).summary["weights_sha256"]
    assert train(own_model(tmp_path, "in_place", "ray")).summary["weights_sha256"] == local


def test_output_leaves_before_loss_and_backward(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tree = own_model(tmp_path, "logging", log=str(log))
    tree["train"] = {"epochs": 1, "batch_size": 64}
    train(tree)
    events = [line.split() for line in log.read_text().splitlines()]
    forward = [float(t) for kind, t in events if kind == "forward"]
    backward = [float(t) for kind, t in events if kind == "backward"]
    # Stage 2 reads batch t while stage 1 still sleeps 0.7 s in the backward of the same batch.
    assert len(forward) == len(backward) > 2
    assert all(f < b for f, b in zip(forward, backward, strict=True))


@pytest.mark.parametrize(("keeps", "most_mb"), [(False, 4 * 8.4), (True, 150.0)])
def test_window_bounds_the_object_store(keeps: bool, most_mb: float, tmp_path: Path) -> None:
    """60 activations of 8 MB into a slow stage: 4 in flight, or as many as a replay may keep too;
    the store (200 MB) never spills."""
    tree = own_model(tmp_path, "wide", megabytes=8, sleep_s=0.05)
    tree["data"] = {"source": "digits"}
    tree["train"] = {"epochs": 2, "batch_size": 32}
    tree["pipeline"] |= {"in_flight": 4, "prefetch": 2}
    tree["fault_tolerance"] = {"enabled": keeps, "snapshot_every_s": 1000}
    peak = Peak()
    scpl_ray.train(tree, reporter=peak)
    assert peak.steps > 60
    assert 8 < peak.used_mb <= most_mb, f"peak of {peak.used_mb:.1f} MB"


class Peak(Reporter):
    """Samples the store's use at each step."""

    used_mb, steps = 0.0, 0

    def started(self, plan: object) -> None:
        self.total = ray.cluster_resources()["object_store_memory"]

    def step(self, epoch: int, done: object) -> None:
        self.steps += 1
        free = ray.available_resources().get("object_store_memory", 0.0)
        self.used_mb = max(self.used_mb, (self.total - free) / 2**20)


def test_runs_leave_no_actor_behind(texts: Path, tmp_path: Path) -> None:
    train(small_config(texts, tmp_path, train__epochs=1))
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU", 0) < 8 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 8
