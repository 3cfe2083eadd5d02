"""Trains a job's config on the local engine and stops after so many steps; prints the digests.

python -m tests.chaos.reference job.yaml STEPS        (in the job's folder)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from tests.helpers import at, run_job, stop


def main(path: str, steps: int) -> None:
    """Trains it."""
    tree = yaml.safe_load(Path(path).read_text())
    tree |= {"name": "reference", "pipeline": {"engine": "local"}}
    tree["model"]["options"] = {"sleep_s": 0.0}
    run, _ = run_job(tree, [(at(steps - 1), stop)])
    print(json.dumps({"steps": run.summary["steps"], "digests": run.summary["weights_sha256"]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
