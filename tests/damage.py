"""Damages a checkpoint in every way we could think of, and says what comes of it.

python -m tests.damage        prints a table: damage, message, what is used instead
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scpl_ray.engine.base import StageState
from scpl_ray.engine.build import stage_state
from scpl_ray.errors import CheckpointError
from scpl_ray.run_checkpoints import Checkpoints, Saved
from scpl_ray.run_manifest import CHECKSUM, checksum
from scpl_ray.storage import Storage
from tests.unit.tools import TEXT, build_stages, config, text_batch, train

INFO = dataclasses.replace(TEXT, tokenizer='{"model": "tiny"}')
OLD, NEW = 10, 20


@functools.cache
def _stages() -> tuple[list[Any], list[StageState]]:
    stages = build_stages(config(), INFO)
    train(stages, [text_batch()])
    return [stage.spec for stage in stages], [stage_state(stage) for stage in stages]


def saved(step: int, name: str = "run", parked: int = 1, **changes: Any) -> Saved:
    """A checkpoint of small real stages; the last `parked` have left."""
    specs, states = _stages()
    at = len(specs) - parked
    states = [dataclasses.replace(s, next_step=step if k < at else 3) for k, s in enumerate(states)]
    states[0] = dataclasses.replace(states[0], stash={0: states[0].weights, 3: states[0].weights})
    whole = Saved(
        name=name,
        step=step,
        config=config(name=name),
        info=INFO,
        specs=specs[:at],
        parked=specs[at:],
        states=states,
        threads=1,
        run={"step": step, "best": [0.5, None], "text": "ä"},
    )
    return dataclasses.replace(whole, **changes)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], sign: bool = True) -> None:
    """Edits a manifest; with `sign`, as one who knows how it is signed."""
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    said = tree.pop(CHECKSUM)
    change(tree)
    path.write_text(json.dumps({**tree, CHECKSUM: checksum(tree) if sign else said}))


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _swap(folder: Path) -> None:
    one, two, spare = (folder / f"stage-{n}.safetensors" for n in (1, 2, 0))
    one.rename(spare)
    two.rename(one)
    spare.rename(two)


def _foreign_run(folder: Path) -> None:
    Checkpoints(Storage(str(folder.parent)), 9, print).write(saved(NEW, "another"))


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _not_tensors(folder: Path) -> None:
    """Signed, so that only the parser can see it."""
    import hashlib

    content = pickle.dumps({"weights": [1.0]})
    (folder / WEIGHTS).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, lambda tree: tree["files"].update({WEIGHTS: entry}))


def _both(folder: Path) -> None:
    for each in (folder, folder.with_name(f"step-{OLD:08d}")):
        _flip(each / WEIGHTS, -1)


WEIGHTS, OPTIMIZER = "stage-1.safetensors", "stage-1.optimizer.safetensors"
STASH, TOKENIZER, MANIFEST = "stage-1.stash-3.safetensors", "tokenizer.json", "manifest.json"
KEPT, NOTHING = f"step {OLD}", "refused"


@dataclass(frozen=True)
class Damage:
    """One way to damage a checkpoint.

    Attributes:
        what: in words.
        do: does it to the folder of step 20.
        names: what the message must name.
        used: what is used instead.
    """

    what: str
    do: Callable[[Path], object]
    names: str
    used: str = KEPT


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"garbage")


def _rename(folder: Path) -> None:
    folder.rename(folder.with_name("step-00000030"))


DAMAGES = [
    Damage("weights cut short", lambda f: _cut(f / WEIGHTS), WEIGHTS),
    Damage("a bit of the weights flipped", lambda f: _flip(f / WEIGHTS, -1), WEIGHTS),
    Damage("a bit of the weights' header flipped", lambda f: _flip(f / WEIGHTS, 20), WEIGHTS),
    Damage("weights empty", lambda f: (f / WEIGHTS).write_bytes(b""), WEIGHTS),
    Damage("weights missing", lambda f: (f / WEIGHTS).unlink(), WEIGHTS),
    Damage("optimizer missing", lambda f: (f / OPTIMIZER).unlink(), OPTIMIZER),
    Damage("a bit of the optimizer flipped", lambda f: _flip(f / OPTIMIZER, -1), OPTIMIZER),
    Damage("stash missing", lambda f: (f / STASH).unlink(), STASH),
    Damage("garbage after the weights", lambda f: _append(f / WEIGHTS), WEIGHTS),
    Damage("files of two stages swapped", _swap, "stage-1.safetensors"),
    Damage(
        "weights replaced by a pickle",
        lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"weights": [1.0]})),
        WEIGHTS,
    ),
    Damage("weights replaced by a pickle, manifest signed anew", _not_tensors, WEIGHTS),
    Damage("weights replaced by a folder", lambda f: _to_folder(f / WEIGHTS), WEIGHTS),
    Damage("weights may not be read", lambda f: (f / WEIGHTS).chmod(0), WEIGHTS),
    Damage("vocabulary missing", lambda f: (f / TOKENIZER).unlink(), TOKENIZER),
    Damage("vocabulary edited", lambda f: (f / TOKENIZER).write_text("{}"), TOKENIZER),
    Damage("a bit of the vocabulary flipped", lambda f: _flip(f / TOKENIZER, 3), TOKENIZER),
    Damage("manifest cut short", lambda f: _cut(f / MANIFEST), MANIFEST),
    Damage("manifest not JSON", lambda f: (f / MANIFEST).write_bytes(b"\xff{hello"), MANIFEST),
    Damage("manifest a JSON list", lambda f: (f / MANIFEST).write_text("[1]"), MANIFEST),
    Damage("manifest empty", lambda f: (f / MANIFEST).write_bytes(b""), MANIFEST),
    Damage("manifest missing", lambda f: (f / MANIFEST).unlink(), "no manifest"),
    Damage("manifest replaced by a folder", lambda f: _to_folder(f / MANIFEST), MANIFEST),
    Damage(
        "step edited in the manifest",
        lambda f: edit(f, lambda t: t.update(step=21), sign=False),
        MANIFEST,
    ),
    Damage(
        "step edited, manifest signed anew",
        lambda f: edit(f, lambda t: t.update(step=21)),
        MANIFEST,
    ),
    Damage("another format number", lambda f: edit(f, lambda t: t.update(format=2)), "format 2"),
    Damage(
        "manifest of something else",
        lambda f: (f / MANIFEST).write_text('{"name": "left-pad", "version": "1.3.0"}'),
        "not a scpl-ray checkpoint",
    ),
    Damage("checkpoint of another run", _foreign_run, "'another'"),
    Damage(
        "a path out of the folder in the manifest",
        lambda f: edit(f, lambda t: t["files"].update({"../../x": t["files"].pop(WEIGHTS)})),
        "../../x",
    ),
    Damage(
        "a stage taken out of the manifest",
        lambda f: edit(f, lambda t: t["stages"].pop(0)),
        MANIFEST,
    ),
    Damage(
        "a stage at another step",
        lambda f: edit(f, lambda t: t["stages"][1].update(next_step=19)),
        "stage 2 is at step 19",
    ),
    Damage("a key missing", lambda f: edit(f, lambda t: t.pop("threads")), "threads"),
    Damage("a value of another type", lambda f: edit(f, lambda t: t.update(step="20")), "step"),
    Damage(
        "a setting that this version does not know",
        lambda f: edit(f, lambda t: t["config"].update(nonsense=1)),
        "nonsense",
    ),
    Damage("folder renamed to another step", _rename, "step 20"),
    Damage("both checkpoints damaged", _both, WEIGHTS, NOTHING),
]


def skipped(damage: Damage) -> str:
    """Why a damage cannot be done here; empty if it can."""
    if damage.what == "weights may not be read" and os.geteuid() == 0:
        return "skipped: root may read every file"
    return ""


def outcome(damage: Damage, folder: Path) -> tuple[list[str], str]:
    """Does it in an empty folder: (what was said, what is used instead)."""
    said: list[str] = []
    checkpoints = Checkpoints(Storage(str(folder)), 9, said.append, "run")
    for step in (OLD, NEW):
        checkpoints.write(saved(step))
    damage.do(folder / f"step-{NEW:08d}")
    try:
        found = checkpoints.newest()
    except CheckpointError as error:
        return [*said, str(error).replace(str(folder), "STORAGE")], NOTHING
    if found is None:
        return said, "nothing"
    same = list(found.states) == list(saved(found.step).states)
    return said, f"step {found.step}" + ("" if same else ", but with other tensors")


def main() -> None:
    """Prints the table."""
    print("| damage | message | used instead |\n|---|---|---|")
    for damage in DAMAGES:
        if why := skipped(damage):
            print(f"| {damage.what} | ({why}) | |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            said, used = outcome(damage, Path(folder))
        print(f"| {damage.what} | {'; '.join(said)} | {used} |".replace("\n", "<br>"))


if __name__ == "__main__":
    main()
