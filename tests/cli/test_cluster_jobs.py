"""A cluster started by hand, a job submitted to it, and a node that joins while a growth waits."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_jobs import TREE
from tests.helpers import at, cli, no_process_left, run_job, stop, until

RAY = Path(sys.executable).with_name("ray")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """`ray start --block` processes in a folder of their own, with a token of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        gcs, dashboard, client = free_ports(3)
        self.address, self.client = f"127.0.0.1:{gcs}", f"ray://127.0.0.1:{client}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }
        self.nodes: list[subprocess.Popen[bytes]] = []
        head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}"]
        head += [f"--ray-client-server-port={client}", f"--temp-dir=/tmp/rt{os.getpid()}"]
        self.start(*head, "--num-cpus=2")
        until(self.answers, "the head's answer", 60)

    def start(self, *args: str) -> None:
        """Starts a node."""
        command = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", *args]
        command += ["--object-store-memory=100000000"]
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.nodes.append(node)

    def answers(self) -> bool:
        return self.jobs("list").returncode == 0

    def jobs(self, *args: str) -> Any:
        """`ray job ...`."""
        return subprocess.run(
            [str(RAY), "job", args[0], "--address", self.dashboard, *args[1:]],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def cli(self, *args: str, address: str | None = None) -> Any:
        """`scpl-ray ... --address`."""
        env = {k: v for k, v in self.env.items() if os.environ.get(k) != v}
        return cli(*args, "--address", address or self.address, cwd=self.folder, env=env)

    def status(self) -> dict[str, Any]:
        shown = self.cli("status", "--json")
        return json.loads(shown.stdout) if shown.returncode == 0 else {}

    def end(self) -> None:
        """Ends the nodes that this started, the head last."""
        for node in reversed(self.nodes):
            node.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(30)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    import shutil

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = Cluster(folder)
    yield made
    made.end()
    shutil.rmtree(f"/tmp/rt{os.getpid()}", ignore_errors=True)


def test_a_growth_waits_for_a_node(cluster: Cluster, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "job.yaml").write_text(yaml.safe_dump(TREE))
    runs = tmp_path / "runs"

    def submit(name: str) -> None:
        """As a retry does: the same command again."""
        sent = cluster.jobs(
            "submit", "--no-wait", "--submission-id", name, "--working-dir", str(source),
            "--", "python", "-m", "scpl_ray", "train", "job.yaml", f"output.dir={runs}",
            "fault_tolerance.checkpoint_every_steps=20", "--resume",
        )  # fmt: skip
        assert sent.returncode == 0, sent.stdout + sent.stderr

    submit("one")
    until(lambda: cluster.status().get("step"), "training", 90)

    rows = json.loads(cluster.cli("list", "--json").stdout)
    assert [(r["name"], r["status"]) for r in rows] == [("job", "running")]
    outside = cluster.cli("list", "--json", address=cluster.client)
    assert [r["id"] for r in json.loads(outside.stdout)] == [rows[0]["id"]], outside.stderr
    wrong = cli(
        "list", "--address", cluster.address, cwd=tmp_path, env={"RAY_AUTH_TOKEN": "x" * 32}
    )
    assert wrong.returncode == 2 and "does not accept this user's token" in wrong.stderr
    other = cluster.cli("grow", "other")
    assert other.returncode == 2 and "no job 'other'; running at" in other.stderr

    asked = cluster.cli("grow", "job", "--no-wait", "--timeout", "120s")
    assert asked.returncode == 0, asked.stderr

    def change(key: str = "state") -> Any:
        changes = cluster.status().get("changes", [])
        return changes and changes[-1][key]

    until(lambda: change() == "pending", "the pending request", 120)
    assert "CPU: 1 asked, 0 free, 2 in all" in change("text")
    before = cluster.status()["step"]
    until(lambda: cluster.status()["step"] > before + 5, "training that goes on", 120)

    cluster.start(f"--address={cluster.address}", "--num-cpus=1")
    until(lambda: change() == "done", "the growth on the new node", 120)
    assert "node" not in change("text") and "first batch was through" in change("text")

    grown_at = change("step")
    until(lambda: cluster.status()["step"] > grown_at + 50, "a checkpoint with the new stage", 120)
    os.kill(cluster.status()["pid"], signal.SIGKILL)
    until(lambda: "FAILED" in cluster.jobs("status", "one").stdout.upper(), "its failure", 120)
    submit("two")
    until(lambda: cluster.status().get("step", 0) > grown_at + 60, "training that goes on", 90)
    assert "goes on at step" in cluster.jobs("logs", "two").stdout
    assert cluster.cli("shrink", "job").returncode == 0
    stopped = cluster.cli("stop", "job")
    assert stopped.returncode == 0, stopped.stderr

    def ended() -> bool:
        said = cluster.jobs("status", "two")
        assert "FAILED" not in said.stdout + said.stderr, cluster.jobs("logs", "two").stdout
        return "SUCCEEDED" in (said.stdout + said.stderr).upper()

    until(ended, "the job's success", 120)

    summary = json.loads((runs / "job/summary.json").read_text())
    assert summary["status"] == "stopped"
    assert [(g["stage"], g["returned"]) for g in summary["grown"]] == [(3, False)]
    assert [s["stage"] for s in summary["shrunk"]] == [3]
    tree = TREE | {"name": "alone", "pipeline": {"engine": "local"}}
    tree["model"] = TREE["model"] | {"options": {"sleep_s": 0.0}}
    tree |= {"output": {"dir": str(runs), "tensorboard": False}}
    alone, _ = run_job(tree, [(at(summary["steps"] - 1), stop)])
    assert alone.summary["weights_sha256"] == summary["weights_sha256"][:2]
    assert "no job runs" in cluster.cli("list").stdout
    cluster.end()
    no_process_left(cluster.folder, limit_s=30)
