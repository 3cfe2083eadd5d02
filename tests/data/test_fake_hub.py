"""The real Hub client and `datasets`, against a server of this machine that speaks as the Hub."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

REPO, COMMIT = "stanfordnlp/imdb", "e" * 40
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


class Handler(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def entries(self) -> list[dict[str, object]]:
        """Files and their folder, as the Hub lists them."""
        folders = sorted({n.rpartition("/")[0] for n in self.files})
        return [{"type": "directory", "path": f, "size": 0, "oid": "d" * 40} for f in folders] + [
            {"type": "file", "path": n, "size": len(c), "oid": f"{i:040x}"}
            for i, (n, c) in enumerate(self.files.items())
        ]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        api = f"/api/datasets/{REPO}"
        resolve = f"/datasets/{REPO}/resolve/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            found = {
                "id": REPO,
                "sha": COMMIT,
                "private": False,
                "disabled": False,
                "gated": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": n} for n in self.files],
            }
            self.answer(200, json.dumps(found).encode(), Content_Type="application/json")
        elif path.startswith(f"{api}/tree/"):
            folder = path[len(f"{api}/tree/") :].partition("/")[2]
            found = [e for e in self.entries() if str(e["path"]).rpartition("/")[0] == folder]
            self.answer(200, json.dumps(found).encode(), Content_Type="application/json")
        elif path.startswith(resolve):
            name = path[len(resolve) :].partition("/")[2]
            if name in self.files:
                self.answer(
                    200, self.files[name], ETag=f'"{abs(hash(name)):040x}"', X_Repo_Commit=COMMIT
                )
            else:
                self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            self.answer(404, b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        wanted = json.loads(body).get("paths", []) if body.startswith("{") else []
        found = [e for e in self.entries() if e["path"] in wanted]
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")


@pytest.fixture(scope="module")
def fake_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    files = {}
    for split in ("train", "test"):
        rows = {"text": [f"{split} good {i}" for i in range(60)], "label": [0, 1] * 30}
        path = folder / f"{split}.parquet"
        Dataset.from_dict(rows, features=FEATURES).to_parquet(str(path))
        files[f"plain_text/{split}-00000-of-00001.parquet"] = path.read_bytes()
    handler = type("Served", (Handler,), {"files": files})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load(home: Path, endpoint: str, *sources: str) -> str:
    """Loads sources in a process of its own (the Hub's address is fixed at import)."""
    code = f"""
import os
for name in [n for n in os.environ if n.lower().endswith("_proxy") or n.endswith("_OFFLINE")]:
    del os.environ[name]
os.environ |= {{"HF_ENDPOINT": {endpoint!r}, "HF_HOME": {str(home)!r}, "HF_HUB_DISABLE_XET": "1"}}
from scpl_ray.config.schema import DataConfig
from scpl_ray.data.sources import load_raw
from scpl_ray.errors import DataError
for source in {sources!r}:
    try:
        raw = load_raw(DataConfig(source=source), 0)
    except DataError as error:
        print("refused:", error)
    else:
        print(raw.source, {{n: len(s.labels) for n, s in raw.splits.items()}}, raw.label_names)
        print(raw.splits["test"].samples[0], "|", raw.splits["test"].labels[:3], raw.notice)
assert "HF_HUB_OFFLINE" not in os.environ, "looking into the cache leaves no trace"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_sets_come_from_the_hub_then_from_its_cache(fake_hub: str, tmp_path: Path) -> None:
    said = load(tmp_path, fake_hub, "imdb", "ag_news")
    sizes = "{'train': 54, 'test': 60, 'validation': 6} ('neg', 'pos')"
    assert f"stanfordnlp/imdb, Hugging Face Hub {sizes}" in said
    assert "test good 0 | [0 1 0]" in said
    missing = (
        "refused: data.source: 'ag_news' (fancyzhx/ag_news) could not be loaded from the Hugging"
    )
    assert missing in said, "the Hub answers, but has no such set: an error, not another source"
    said = load(tmp_path, "http://127.0.0.1:9", "imdb", "ag_news")
    assert f"stanfordnlp/imdb, from the local cache {sizes}" in said
    assert "refused: data.source: 'ag_news' comes from the Hugging Face Hub, which cannot" in said
