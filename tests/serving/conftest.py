from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.network import Network, load
from tests.helpers import run_job, small_config, write_texts


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two stages, each with an exit: `runs/text`."""
    folder = tmp_path_factory.mktemp("s")
    texts = write_texts(folder / "texts.jsonl")
    tree = small_config(
        texts,
        folder / "runs",
        stages=[2, 2],
        pipeline__engine="local",
        train__epochs=4,
        name="text",
    )
    run_job(tree)
    return folder


@pytest.fixture(scope="session")
def text_network(text_run: Path) -> Network:
    return load(text_run / "runs/text")


@pytest.fixture(scope="module")
def image_network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    tree: dict[str, Any] = {
        "data": {"source": "digits", "limit": 400},
        "model": {"kind": "convnet", "channels": [8, 16]},
        "train": {"epochs": 2, "batch_size": 32},
        "resources": {"threads": 1, "device": "cpu"},
        "output": {"dir": str(tmp_path_factory.mktemp("image")), "tensorboard": False},
        "pipeline": {"engine": "local"},
        "name": "image",
    }
    return load(run_job(tree)[0].dir)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("NO BROWSER, the page is not tested: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()
