"""A real kernel of a notebook: the live screen, and the figure of a run."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from scpl_ray.notebook import default_reporter, in_notebook
from scpl_ray.report import PlainReporter
from tests.helpers import small_config, write_texts


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """Outputs of the cells of a notebook that trains, plots, and trains with a notice."""
    folder = tmp_path_factory.mktemp("notebook")
    data = write_texts(folder / "texts.jsonl")
    moments = {"elastic__start_stages": 2, "elastic__grow_at": {"epoch": [2]}}
    tree = small_config(data, folder, pipeline__engine="local", train__epochs=4, **moments)
    cells = [
        f"import scpl_ray\nrun = scpl_ray.train({tree!r}, ['local.temperature=0.2'])",
        "run.plot()",
        "from scpl_ray.notebook import default_reporter\n"
        "default_reporter().notice('<b>the Hub</b> is gone')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        )
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(folder))
    return [cell.outputs for cell in notebook.cells]


def test_one_screen_is_redrawn(outputs: list[list[Any]]) -> None:
    screens = [o for o in outputs[0] if o.output_type == "display_data"]
    assert len(screens) == 1, "one output, not one a step"
    html = screens[0].data["text/html"]
    for word in ("epoch 4/4", "step 16/16", "encoder.2", "samples/s", "ETA 0:00"):
        assert word in html, word
    said = "".join(o.text for o in outputs[0] if o.output_type == "stream")
    assert "stage 3 joined at step 8" in said


def test_the_figure_is_shown(outputs: list[list[Any]]) -> None:
    (shown,) = outputs[1]
    picture = base64.b64decode(shown.data["image/png"])
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_a_notice_is_a_panel_of_words(outputs: list[list[Any]]) -> None:
    (shown,) = outputs[2]
    html = shown.data["text/html"]
    assert "&lt;b&gt;the Hub&lt;/b&gt; is gone" in html and "notice" in html


def test_outside_of_a_notebook() -> None:
    assert not in_notebook()
    assert isinstance(default_reporter(), PlainReporter)
