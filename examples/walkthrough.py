"""A walk through scpl-ray: train, grow, kill a stage, leave early, and look at each picture.

    python examples/walkthrough.py            # some two minutes on two cores

Each `# %%` begins a cell: open the file as a notebook in VS Code, Spyder or PyCharm, or run it as
it is. It trains on handwritten digits, which need no network, and puts its pictures into
`runs/walkthrough/pictures`.
"""

# %% Setting up
from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

import scpl_ray

EXAMPLES = Path(__file__).resolve().parent
NAME = "walkthrough"
PICTURES = Path("runs") / NAME / "pictures"
JOB = ["model.channels=[16, 32]", "local.exit_head.kind=linear", "train.epochs=40"]


def call(*words: str) -> str:
    """Runs the command line, as in a terminal."""
    line = [sys.executable, "-m", "scpl_ray", *words]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"scpl-ray {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def status() -> dict[str, Any]:
    """What the running job says of itself."""
    told: dict[str, Any] = json.loads(call("status", NAME, "--json"))
    return told


def wait_for(what: str, true: Any, limit_s: float = 300.0) -> None:
    """Looks again and again."""
    end = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come about within {limit_s:g} s")
        time.sleep(0.5)


# %% Two stages begin to train, in the background
config = str(EXAMPLES / "digits.yaml")
print(call("train", config, *JOB, "--name", NAME, "--overwrite", "--trace", "--detach"))
wait_for("the first epoch", lambda: status()["epoch"] >= 1)
print(call("status", NAME))

# %% A third stage joins; training does not stop for it
print(call("grow", NAME))
print(call("status", NAME))

# %% The process of a stage is killed: another takes its place, at the same batch
driver = psutil.Process(status()["pid"])
stages = [p for p in driver.children(recursive=True) if "StageActor" in " ".join(p.cmdline())]
stages[0].send_signal(signal.SIGKILL)
print(f"killed process {stages[0].pid}")
wait_for("the end of the run", lambda: (Path("runs") / NAME / "summary.json").is_file())
print(call("logs", NAME))

# %% What has happened: accuracy of each exit and losses over the epochs; the dashed line is growth
run = scpl_ray.TrainedRun(
    Path("runs") / NAME, json.loads((Path("runs") / NAME / "summary.json").read_text())
)
print("joined:", [(g["stage"], g["step"]) for g in run.summary["grown"]])
print("survived:", [(f["who"], f["step"]) for f in run.summary["failures"]])
PICTURES.mkdir(parents=True, exist_ok=True)
figure = run.plot()
figure.savefig(PICTURES / "run.png")
figure  # noqa: B018  (a notebook shows it)

# %% The pipeline over time: each stage at another batch
(run.dir / "trace.png").rename(PICTURES / "trace.png")

# %% Each exit answers; most digits need only the first
print(call("eval", NAME))
print(call("eval", NAME, "--calibrate"))
print(call("eval", NAME, "--sweep", "--max-loss", "0.005", "--plot", str(PICTURES / "sweep.png")))

# %% The same in Python: which digits the first exit answers, and which go all the way
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from scpl_ray.early_exit import Rule  # noqa: E402
from scpl_ray.exiting.temperatures import in_use  # noqa: E402
from scpl_ray.predictor import Prediction, Predictor  # noqa: E402

rule = Rule(0.95, temperatures=in_use(run.dir).values)
drawn = load_digits().images[-180:]  # 8 x 8, from 0 to 16
pictures = [Image.fromarray((one / 16 * 255).round().astype(np.uint8)) for one in drawn]
results = Predictor(run.dir, rule).images(pictures)
answered = [(p, r) for p, r in zip(pictures, results, strict=True) if isinstance(r, Prediction)]
exits = sorted({r.stage for _, r in answered})
figure = Figure(figsize=(9, 1.3 * len(exits)), layout="constrained")
for axes, at in zip(figure.subplots(len(exits), 10, squeeze=False), exits, strict=True):
    own = [(p, r) for p, r in answered if r.stage == at]
    for place in axes:
        place.set_axis_off()
    for place, (picture, result) in zip(axes, own, strict=False):
        place.imshow(picture, cmap="gray_r")
        place.set_title(f"{result.label}: {result.probability:.0%}", fontsize=8)
    axes[0].text(-0.4, 0.5, f"exit {at}: {len(own)}", transform=axes[0].transAxes, ha="right")
figure.savefig(PICTURES / "exits.png", dpi=110)
figure  # noqa: B018

# %% Everything on one page, to keep or to send
print(call("report", NAME))
print("pictures:", *sorted(str(path) for path in PICTURES.iterdir()), sep="\n  ")
