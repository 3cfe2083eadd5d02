"""A wish to change the number of stages, and what has become of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from scpl_ray.engine.base import Ask

# Before: queued, pending, starting, ready, joined, in this order.
ENDED = ("done", "given up", "withdrawn", "failed", "refused")


@dataclass
class Request:
    """One stage that shall join or leave.

    Attributes:
        id: unique; chosen by who asks.
        kind: "grow" or "shrink".
        by: who wants it.
        reason: why, for the log.
        layers: layers of the new stage; None: as the model's pattern or plan says.
        change: keys of `model` that differ in its layers.
        ask: resources of the new stage.
        not_before: the earliest step.
        at_epoch: the earliest epoch, in place of a step.
        exact: it happens at `not_before` and at no other step, whatever it takes.
        timeout_s: seconds until a stage that has not started is given up.
        state: where it is; see ENDED.
        text: the state in words.
        step: where it happened, once it did.
        stage: number of the stage.
        starts: how often its process was started.
    """

    id: str
    kind: Literal["grow", "shrink"]
    by: Literal["command", "plan", "policy"] = "command"
    reason: str = ""
    layers: int | None = None
    change: dict[str, Any] = field(default_factory=dict)
    ask: Ask = field(default_factory=Ask)
    not_before: int = 0
    at_epoch: int | None = None
    exact: bool = False
    timeout_s: float = 300.0
    state: str = "queued"
    text: str = ""
    step: int | None = None
    stage: int | None = None
    asked_at: float = field(default_factory=time.time)
    started_at: float | None = None
    starts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED

    def move(self, state: str, text: str = "") -> None:
        """Sets state and words."""
        self.state, self.text = state, text

    def view(self) -> dict[str, Any]:
        """What others see of it: plain values only."""
        return {
            "id": self.id,
            "kind": self.kind,
            "by": self.by,
            "state": self.state,
            "text": self.text,
            "stage": self.stage,
            "step": self.step,
            "not_before": self.not_before,
            "asked_at": self.asked_at,
            "waited_s": round(time.time() - (self.started_at or self.asked_at), 1),
            "timeout_s": self.timeout_s,
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
        }


def request_of(command: dict[str, Any]) -> Request:
    """A command, as it lies in the mailbox, as a request."""
    return Request(
        id=command["id"],
        kind=command["kind"],
        reason=f"asked for by {command.get('user', 'a command')}",
        layers=command.get("layers"),
        change=command.get("change") or {},
        ask=Ask(command.get("num_cpus"), command.get("num_gpus")),
        not_before=command.get("at_step") or 0,
        at_epoch=command.get("at_epoch"),
        timeout_s=command.get("timeout_s") or 300.0,
    )


def note_of(request: Request, step: int) -> dict[str, Any]:
    """A change that is about to happen before `step`, to be made again after a crash."""
    return {
        "step": step,
        "id": request.id,
        "kind": request.kind,
        "by": request.by,
        "reason": request.reason,
        "layers": request.layers,
        "change": request.change,
        "num_cpus": request.ask.num_cpus,
        "num_gpus": request.ask.num_gpus,
        "timeout_s": request.timeout_s,
    }


def noted_request(note: dict[str, Any]) -> Request:
    """The same change, at the same step and at no other."""
    return Request(
        id=note["id"],
        kind=note["kind"],
        by=note["by"],
        reason=note["reason"],
        layers=note["layers"],
        change=note["change"],
        ask=Ask(note["num_cpus"], note["num_gpus"]),
        not_before=note["step"],
        exact=True,
        timeout_s=note["timeout_s"],
    )
