from __future__ import annotations

import dataclasses
import errno
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest import MonkeyPatch

from scpl_ray.engine.base import StageState
from scpl_ray.errors import CheckpointError
from scpl_ray.run_checkpoints import Checkpoints, Saved
from scpl_ray.storage import Storage
from tests.damage import DAMAGES, NOTHING, Damage, edit, outcome, saved, skipped
from tests.unit.tools import config, image_info


class Kept:
    """Checkpoints in a folder, and what they said."""

    def __init__(self, path: Path, keep: int = 2, name: str | None = None) -> None:
        self.path, self.said = path, list[str]()
        self.checkpoints = Checkpoints(Storage(str(path)), keep, self.said.append, name)

    def write(self, *steps: int) -> None:
        for step in steps:
            self.checkpoints.write(saved(step))

    def folder(self, step: int) -> Path:
        return self.path / f"step-{step:08d}"

    def steps(self) -> list[int]:
        return sorted(int(p.name[5:]) for p in self.path.glob("step-*"))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def same(one: Saved | None, other: Saved) -> bool:
    assert one is not None
    assert list(one.states) == list(other.states)
    return dataclasses.replace(one, states=[]) == dataclasses.replace(other, states=[])


# --- write and read ------------------------------------------------------------------------------


def test_what_is_written_is_read(kept: Kept) -> None:
    assert kept.checkpoints.newest() is None
    kept.write(10)
    found = kept.checkpoints.newest()
    assert same(found, saved(10))
    assert same(found, saved(10)), "the states can be read again"
    assert sorted(p.name for p in kept.folder(10).iterdir()) == [
        "manifest.json",
        "stage-1.optimizer.safetensors",
        "stage-1.safetensors",
        "stage-1.stash-0.safetensors",
        "stage-1.stash-3.safetensors",
        "stage-2.optimizer.safetensors",
        "stage-2.safetensors",
        "stage-3.optimizer.safetensors",
        "stage-3.safetensors",
        "tokenizer.json",
    ]
    assert kept.said == []


def test_images_a_step_of_many_digits_and_no_parked_stage(kept: Kept) -> None:
    image = saved(123_456_789, parked=0, info=image_info(1, 8, 8), config=config(seed=2**62))
    kept.checkpoints.write(image)
    assert same(kept.checkpoints.newest(), image)
    assert not (kept.folder(123_456_789) / "tokenizer.json").exists()


def test_the_drivers_state_comes_back_as_it_was(kept: Kept) -> None:
    run = {"loss": math.inf, "lr": 0.1 + 0.2, "big": 2**70, "none": None, "deep": [{"a": [1, "ü"]}]}
    kept.checkpoints.write(saved(5, run=run))
    found = kept.checkpoints.newest()
    assert found is not None and found.run == run


def test_newest_at_most(kept: Kept) -> None:
    kept.write(10, 20)
    for at_most, step in ((25, 20), (20, 20), (19, 10), (10, 10)):
        found = kept.checkpoints.newest(at_most)
        assert found is not None and found.step == step
    assert kept.checkpoints.newest(9) is None


def test_one_state_at_a_time_is_held(kept: Kept) -> None:
    whole = saved(10)
    size = 4_000_000

    def states() -> Iterator[StageState]:
        for state in whole.states:
            yield dataclasses.replace(state, optimizer=bytes(size), stash={})

    tracemalloc.start()
    kept.checkpoints.write(dataclasses.replace(whole, states=states()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * size


def test_another_run_is_refused_only_if_a_name_is_given(tmp_path: Path) -> None:
    Kept(tmp_path).write(10)
    with pytest.raises(CheckpointError, match="it is of the run 'run', not of 'other'"):
        Kept(tmp_path, name="other").checkpoints.newest()
    assert Kept(tmp_path, name="run").checkpoints.newest() is not None


def test_states_damaged_after_the_look(kept: Kept) -> None:
    kept.write(10)
    found = kept.checkpoints.newest()
    assert found is not None
    (kept.folder(10) / "stage-2.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="stage-2.safetensors: 0 bytes.*something else writes"
    ):
        list(found.states)


# --- a write that fails --------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(10))
def test_a_full_disk_at_each_file(kept: Kept, monkeypatch: MonkeyPatch, at: int) -> None:
    kept.write(10)
    write, calls = Storage.write, []

    def full(self: Storage, name: str, content: bytes) -> None:
        calls.append(name)
        if len(calls) > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, content)

    monkeypatch.setattr(Storage, "write", full)
    with pytest.raises(OSError, match="No space left"):
        kept.write(20)
    assert len(calls) == at + 1
    assert kept.steps() == [10]
    assert same(kept.checkpoints.newest(), saved(10))
    monkeypatch.setattr(Storage, "write", write)
    kept.write(20)
    assert same(kept.checkpoints.newest(), saved(20))


def test_a_stage_that_cannot_be_fetched(kept: Kept) -> None:
    whole = saved(10)

    def states() -> Iterator[StageState]:
        yield next(iter(whole.states))
        raise RuntimeError("stage 2 died")

    with pytest.raises(RuntimeError, match="stage 2 died"):
        kept.checkpoints.write(dataclasses.replace(whole, states=states()))
    assert kept.steps() == []


def test_stages_at_another_step_are_not_written(kept: Kept) -> None:
    with pytest.raises(ValueError, match="stage 1 is at step 10, the checkpoint at step 11"):
        kept.checkpoints.write(dataclasses.replace(saved(10), step=11))
    with pytest.raises(ValueError):
        kept.checkpoints.write(dataclasses.replace(saved(10), states=[]))
    assert kept.steps() == []


def test_a_step_is_replaced(kept: Kept) -> None:
    kept.write(10)
    fewer = saved(10, parked=0, run={"again": True})
    fewer = dataclasses.replace(
        fewer, states=[dataclasses.replace(s, stash={}) for s in fewer.states]
    )
    kept.checkpoints.write(fewer)
    assert same(kept.checkpoints.newest(), fewer)
    assert not list(kept.folder(10).glob("*stash*"))


# --- what stays ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "left"), [(1, [40]), (2, [30, 40]), (9, [10, 20, 30, 40])])
def test_prune(tmp_path: Path, keep: int, left: list[int]) -> None:
    kept = Kept(tmp_path, keep)
    kept.write(10, 20, 30, 40)
    assert kept.steps() == left


def test_incomplete_ones_go_and_other_files_stay(kept: Kept) -> None:
    kept.write(10)
    (kept.folder(10) / "manifest.json").unlink()
    assert kept.checkpoints.newest() is None
    assert kept.said == ["step-00000010: not complete (no manifest): skipped"]
    (kept.path / "notes.txt").write_text("mine")
    (kept.path / "step-7").mkdir()
    kept.write(20)
    assert sorted(p.name for p in kept.path.iterdir()) == ["notes.txt", "step-00000020", "step-7"]


def test_what_lies_after_a_run_that_went_back_goes(tmp_path: Path) -> None:
    kept = Kept(tmp_path, keep=1)
    Kept(tmp_path, keep=9).write(10, 20, 30)
    kept.write(15)
    assert kept.steps() == [15]
    assert kept.said == [f"step-000000{s}: removed: the run went back behind it" for s in (30, 20)]


def test_a_failed_removal_is_said(kept: Kept, monkeypatch: MonkeyPatch) -> None:
    kept.write(10, 20)
    remove = Storage.remove

    def fail(self: Storage, name: str) -> None:
        if name.startswith("step-00000010"):
            raise PermissionError(errno.EACCES, "no")
        remove(self, name)

    monkeypatch.setattr(Storage, "remove", fail)
    kept.write(30)
    assert kept.steps() == [10, 20, 30]
    assert kept.said == ["checkpoints before step 30 were not removed: Permission denied"]


def test_clear(kept: Kept) -> None:
    kept.write(10, 20)
    kept.checkpoints.note_change({"step": 1, "id": "a"})
    kept.checkpoints.clear()
    kept.checkpoints.clear()
    assert list(kept.path.iterdir()) == []


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.what)
def test_damage_is_named_and_the_checkpoint_before_is_used(damage: Damage, tmp_path: Path) -> None:
    if why := skipped(damage):
        pytest.skip(why)
    said, used = outcome(damage, tmp_path)
    assert used == damage.used
    assert any(damage.names in line and "step-000000" in line for line in said), said
    assert len(said) == (1 if used != NOTHING else 2)


def test_all_refused_names_each(kept: Kept) -> None:
    kept.write(10, 20)
    for step in (10, 20):
        edit(kept.folder(step), lambda tree: tree.update(format=7))
    with pytest.raises(CheckpointError) as caught:
        kept.checkpoints.newest()
    text = str(caught.value)
    assert "step-00000010/manifest.json: format 7" in text
    assert "step-00000020/manifest.json: format 7" in text
    assert str(kept.path) in text and "Restore one of them" in text and "--overwrite" in text


# --- the journal ---------------------------------------------------------------------------------


def change(step: int, key: str, **more: Any) -> dict[str, Any]:
    return {"step": step, "id": key, **more}


def test_journal(kept: Kept) -> None:
    one, two, three = change(120, "b", kind="grow"), change(7, "z"), change(120, "a")
    for each in (one, two, three):
        kept.checkpoints.note_change(each)
    assert (kept.path / "changes" / "00000120-b.json").is_file()
    assert kept.checkpoints.changes_from(0) == [two, one, three]
    assert kept.checkpoints.changes_from(120) == [one, three]
    assert kept.checkpoints.changes_from(121) == []
    again = Kept(kept.path).checkpoints  # as another process
    later = change(120, "A")
    again.note_change(later)
    assert again.changes_from(8) == [one, three, later]
    moved = change(130, "b")
    again.note_change(moved)
    again.forget_change("a")
    again.forget_change("never")
    assert again.changes_from(0) == [two, later, moved]


def test_ids_of_any_kind(kept: Kept) -> None:
    keys = ["a/b", "a_b", "../../x", "", "ä", "x" * 300, "x" * 301, "a-b", "b"]
    for key in keys:
        kept.checkpoints.note_change(change(1, key))
    assert [c["id"] for c in kept.checkpoints.changes_from(0)] == keys
    kept.checkpoints.forget_change("b")
    kept.checkpoints.forget_change("a/b")
    assert [c["id"] for c in kept.checkpoints.changes_from(0)] == [*keys[1:-1]]
    with pytest.raises(ValueError, match="a change needs a step"):
        kept.checkpoints.note_change({"id": "a", "step": "1"})


@pytest.mark.parametrize("how", ["cut", "edited", "other", "renamed", "empty"])
def test_a_damaged_entry_stops(kept: Kept, how: str) -> None:
    kept.checkpoints.note_change(change(3, "a"))
    path = kept.path / "changes" / "00000003-a.json"
    text = path.read_text()
    if how == "renamed":
        path.rename(path := path.with_name("00000004-a.json"))
    else:
        path.write_text(
            {
                "cut": text[:-9],
                "edited": text.replace('"step": 3', '"step": 4'),
                "other": "{}",
                "empty": "",
            }[how]
        )
    with pytest.raises(CheckpointError, match=f"{path.name}.*the run would go on as another"):
        kept.checkpoints.changes_from(0)
    assert len(kept.said) == 1 and path.name in kept.said[0]
