"""The real Hub client and `datasets`, against a server of this machine that speaks as the Hub."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from scpl_ray.data.hub import HUB_SETS

COMMIT = "e" * 40
TEXT, LABEL = Value("string"), ClassLabel(names=["neg", "pos"])

# Folder, splits, and columns of each set as it is published: written down here once more, so that
# a wrong name in `HUB_SETS` cannot agree with itself.
PUBLISHED = {
    "stanfordnlp/imdb": ("plain_text", "train test unsupervised", {"text": TEXT, "label": LABEL}),
    "fancyzhx/ag_news": ("data", "train test", {"text": TEXT, "label": LABEL}),
    "fancyzhx/dbpedia_14": (
        "dbpedia_14",
        "train test",
        {"label": LABEL, "title": TEXT, "content": TEXT},
    ),
    "stanfordnlp/sst2": (
        "data",
        "train validation test",
        {"idx": Value("int32"), "sentence": TEXT, "label": LABEL},
    ),
    "cornell-movie-review-data/rotten_tomatoes": (
        "",
        "train validation test",
        {"text": TEXT, "label": LABEL},
    ),
    "legacy-datasets/banking77": ("data", "train test", {"text": TEXT, "label": LABEL}),
    "dair-ai/emotion": ("split", "train validation test", {"text": TEXT, "label": LABEL}),
    "Yelp/yelp_review_full": ("yelp_review_full", "train test", {"label": LABEL, "text": TEXT}),
}
# Of its two configurations only one has splits.
EMOTION_CARD = """---
configs:
- config_name: split
  data_files:
  - {split: train, path: split/train-*}
  - {split: validation, path: split/validation-*}
  - {split: test, path: split/test-*}
  default: true
- config_name: unsplit
  data_files:
  - {split: train, path: unsplit/train-*}
---
"""


class Handler(http.server.BaseHTTPRequestHandler):
    repos: dict[str, dict[str, bytes]]

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def entries(self, files: dict[str, bytes]) -> list[dict[str, object]]:
        """Files and their folders, as the Hub lists them."""
        folders = sorted({n.rpartition("/")[0] for n in files} - {""})
        return [{"type": "directory", "path": f, "size": 0, "oid": "d" * 40} for f in folders] + [
            {"type": "file", "path": n, "size": len(c), "oid": f"{i:040x}"}
            for i, (n, c) in enumerate(files.items())
        ]

    def do_GET(self) -> None:
        path = self.path.split("?")[0].removeprefix("/api").removeprefix("/datasets/")
        repo = "/".join(path.split("/")[:2])
        rest = path[len(repo) :]
        files = self.repos.get(repo)
        if files is None:
            self.answer(404, b"")
        elif rest.startswith("/resolve/"):
            name = rest.removeprefix("/resolve/").partition("/")[2]
            if name in files:
                tag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
                self.answer(200, files[name], ETag=tag, X_Repo_Commit=COMMIT)
            else:
                self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        elif rest.startswith("/tree/"):
            folder = rest.removeprefix("/tree/").partition("/")[2]
            every = self.entries(files)
            found = [e for e in every if str(e["path"]).rpartition("/")[0] == folder]
            self.answer(200, json.dumps(found).encode(), Content_Type="application/json")
        elif rest in ("", "/revision/main", f"/revision/{COMMIT}"):
            found = {
                "id": repo,
                "sha": COMMIT,
                "private": False,
                "disabled": False,
                "gated": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": n} for n in files],
            }
            self.answer(200, json.dumps(found).encode(), Content_Type="application/json")
        else:
            self.answer(404, b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        wanted = json.loads(body).get("paths", []) if body.startswith("{") else []
        repo = "/".join(self.path.removeprefix("/api/datasets/").split("/")[:2])
        every = self.entries(self.repos.get(repo, {}))
        found = [e for e in every if e["path"] in wanted]
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")


def write_set(
    folder: Path, place: str, splits: str, columns: dict[str, object]
) -> dict[str, bytes]:
    """The Parquet files of one set, by their name on the Hub."""
    files = {}
    for split in splits.split():
        rows: dict[str, list[object]] = {}
        for name in columns:
            words = [f"{split} {name} {i}" for i in range(60)]
            rows[name] = words if columns[name] is TEXT else [0, 1] * 30
        path = folder / "file.parquet"
        Dataset.from_dict(rows, features=Features(columns)).to_parquet(str(path))
        name = f"{split}-00000-of-00001.parquet"
        files[f"{place}/{name}" if place else name] = path.read_bytes()
    return files


@contextlib.contextmanager
def serving(repos: dict[str, dict[str, bytes]]) -> Iterator[str]:
    handler = type("Served", (Handler,), {"repos": repos})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("hub")
    repos = {repo: write_set(folder, *form) for repo, form in PUBLISHED.items()}
    repos["dair-ai/emotion"]["README.md"] = EMOTION_CARD.encode()
    repos["dair-ai/emotion"] |= write_set(
        folder, "unsplit", "train", {"text": TEXT, "label": LABEL}
    )
    return repos


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_sets_come_from_the_hub_then_from_its_cache(
    published: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    with serving({"stanfordnlp/imdb": published["stanfordnlp/imdb"]}) as hub:
        said = load(tmp_path, hub, "imdb", "ag_news")
    sizes = "{'train': 54, 'test': 60, 'validation': 6} ('neg', 'pos')"
    assert f"stanfordnlp/imdb, Hugging Face Hub {sizes}" in said
    assert "test text 0 | [0 1 0]" in said
    missing = (
        "refused: data.source: 'ag_news' (fancyzhx/ag_news) could not be loaded from the Hugging"
    )
    assert missing in said, "the Hub answers, but has no such set: an error, not another source"
    said = load(tmp_path, "http://127.0.0.1:9", "imdb", "ag_news")
    assert f"stanfordnlp/imdb, from the local cache {sizes}" in said
    assert "refused: data.source: 'ag_news' comes from the Hugging Face Hub, which cannot" in said


def test_every_set_is_read_in_its_published_form(
    published: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """Text column, and the split that is the test: SST-2's test labels are hidden."""
    with serving(published) as hub:
        said = load(tmp_path, hub, *HUB_SETS).splitlines()
    assert len(said) == 2 * len(HUB_SETS), said
    columns = {"dbpedia_14": "content", "sst2": "sentence"}
    for i, (name, known) in enumerate(HUB_SETS.items()):
        assert said[2 * i].startswith(f"{known.repo}, Hugging Face Hub"), said[2 * i]
        own = "validation" in PUBLISHED[known.repo][1].split() and name != "sst2"
        train, held = (60, 60) if own else (54, 6)
        assert f"'train': {train}" in said[2 * i] and f"'validation': {held}" in said[2 * i]
        split = "validation" if name == "sst2" else "test"
        assert said[2 * i + 1].startswith(f"{split} {columns.get(name, 'text')} 0 | [0 1 0]")
