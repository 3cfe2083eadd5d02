"""The record of a run's changes: what `summary.json` says under grown, shrunk and given_up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scpl_ray.config.schema import Config
from scpl_ray.elastic.request import Request
from scpl_ray.engine.base import Done
from scpl_ray.stage_facts import StageSpec


@dataclass
class _Joined:
    request: Request
    spec: StageSpec
    config_before: Config
    record: dict[str, Any]
    flowing: bool = False


@dataclass
class Changes:
    """Everything that has changed so far.

    Attributes:
        epoch: of the last change; epochs before it had other stages.
        epochs: step and epoch of each change, of those too that came to nothing.
        grown: a record of each stage that joined and stayed.
        shrunk: a record of each stage that left.
        given_up: a record of each change that did not come about.
    """

    epoch: int = 0
    epochs: list[tuple[int, int]] = field(default_factory=list)
    grown: list[dict[str, Any]] = field(default_factory=list)
    shrunk: list[dict[str, Any]] = field(default_factory=list)
    given_up: list[dict[str, Any]] = field(default_factory=list)
    _joined: list[_Joined] = field(default_factory=list)

    def joined(
        self,
        request: Request,
        spec: StageSpec,
        step: int,
        epoch: int,
        returned: bool,
        config_before: Config,
    ) -> None:
        """A stage joins before `step`."""
        record = _record(request, spec, step, epoch) | {"returned": returned, "seconds": {}}
        self.grown.append(record)
        self._joined.append(_Joined(request, spec, config_before, record))

    def left(self, request: Request, spec: StageSpec, step: int, epoch: int) -> None:
        """A stage leaves before `step`."""
        self.shrunk.append(_record(request, spec, step, epoch))

    def gave_up(self, request: Request) -> None:
        """A change will not come about."""
        view = request.view()
        keys = ("kind", "by", "state", "text", "stage")
        self.given_up.append({key: view[key] for key in keys})

    def first_batches(self, done: Done) -> list[Request]:
        """The growths whose stage has just finished its first batch."""
        finished = {stats.stage: stats.finished_at for stats in done.stats}
        found = []
        for joined in self._joined:
            at = finished.get(joined.spec.number)
            if joined.flowing or at is None or done.stats[0].step < joined.record["step"]:
                continue
            joined.flowing = True
            request = joined.request
            queue = (request.started_at or request.asked_at) - request.asked_at
            parts = {"queue": queue} | request.seconds
            total = at - request.asked_at
            rest = max(0.0, total - sum(parts.values()))
            request.seconds = parts | {"boundary": rest, "total": total}
            joined.record["seconds"] = {k: round(v, 3) for k, v in request.seconds.items()}
            found.append(request)
        return found

    def started_line(self, request: Request) -> str:
        """Words a growth whose first batch is through."""
        parts = {k: v for k, v in request.seconds.items() if k != "total"}
        spent = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
        return (
            f"stage {request.stage} joined at step {request.step}; its first batch was through "
            f"{request.seconds['total']:.1f} s after the request ({spent})"
        )

    def before(self, step: int) -> dict[str, Any]:
        """Copies of the records of what happened before a step: plain values."""
        return {
            "grown": [dict(r) for r in self.grown if r["step"] < step],
            "shrunk": [dict(r) for r in self.shrunk if r["step"] < step],
            "given_up": [dict(r) for r in self.given_up],
            "epoch": max((epoch for at, epoch in self.epochs if at < step), default=0),
        }

    def changed(self, step: int, epoch: int) -> None:
        """The stages are others from `step` on."""
        self.epoch = epoch
        self.epochs.append((step, epoch))

    def recall(self, records: dict[str, Any]) -> None:
        """Takes over what had happened before a run went on."""
        self.grown, self.shrunk = list(records["grown"]), list(records["shrunk"])
        self.given_up = list(records["given_up"])
        self.changed(-1, records["epoch"])

    def config_before(self, step: int, now: Config) -> Config:
        """The network's config before `step`; a stage may have joined since."""
        later = [j for j in self._joined if j.record["step"] >= step]
        return later[0].config_before if later else now

    def lost(self, spec: StageSpec, goes_back: bool) -> tuple[Request, Config | None]:
        """A stage that joined has failed, or the one that fed it.

        Args:
            spec: the stage.
            goes_back: it had left before and is among those that have left again.

        Returns:
            The request that it came from, and the config before it first joined (None: it goes
            back, so its layers stay).
        """
        of_it = [j for j in self._joined if j.spec == spec]
        gone = of_it[-1:] if goes_back else of_it
        self._joined = [j for j in self._joined if j not in gone]
        records = [j.record for j in gone]
        self.grown = [r for r in self.grown if not any(r is record for record in records)]
        return of_it[-1].request, None if goes_back else of_it[0].config_before


def _record(request: Request, spec: StageSpec, step: int, epoch: int) -> dict[str, Any]:
    return {
        "stage": spec.number,
        "layers": list(spec.layers),
        "step": step,
        "epoch": epoch + 1,
        "by": request.by,
        "reason": request.reason,
    }
