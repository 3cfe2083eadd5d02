"""A machine is gone, and with it a stage, its copies and activations: all go back together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from scpl_ray.job import Job
from tests.helpers import at, run_job
from tests.ray.test_recovery import tree_of as stages_that_die

STORE = 100 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The driver's machine with one core, and another with one."""
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": STORE,
            "include_dashboard": False,
            "_system_config": {
                "health_check_initial_delay_ms": 1000,
                "health_check_period_ms": 500,
                "health_check_timeout_ms": 2000,
                "health_check_failure_threshold": 4,
            },
        },
    )
    made.other = made.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def tree_of(out: Path, name: str) -> dict[str, Any]:
    every = {"snapshot_every_steps": 10, "checkpoint_every_steps": 25}
    tree = stages_that_die(out, name, elastic={}, fault_tolerance=every)
    tree["model"]["options"]["sleep_s"] = 0.02
    return tree


def test_a_machine_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    """Before the first checkpoint, and after: another machine comes, nothing is lost or twice."""
    lost_at: list[int] = []

    def lose(job: Job) -> None:
        nodes = {m.started.node for m in job._running.members.live}  # type: ignore[attr-defined]
        assert len(nodes) == 2, "one stage on each machine"
        cluster.remove_node(cluster.other, allow_graceful=False)
        lost_at.append(job.training.steps)
        cluster.other = cluster.add_node(num_cpus=1, object_store_memory=STORE)

    tree = tree_of(tmp_path, "lost")
    tree["resources"]["address"] = cluster.address
    run, commander = run_job(tree, [(at(6), lose), (at(70), lose)])
    print("\n".join(commander.lines))
    plain = tree_of(tmp_path, "plain") | {"pipeline": {"engine": "local"}}
    assert run.summary["weights_sha256"] == run_job(plain)[0].summary["weights_sha256"]
    assert commander.steps == list(range(120))
    first, second = run.summary["failures"]
    back = [line.split() for line in commander.lines if "all stages go back" in line]
    begin, checkpoint = (int(words[-1]) for words in back)
    # A checkpoint that is due waits until the one before it is written.
    assert begin == 0 and 25 <= checkpoint < lost_at[1]
    assert max(first["seconds"], second["seconds"]) < 30
    assert len(lost_at) == 2
