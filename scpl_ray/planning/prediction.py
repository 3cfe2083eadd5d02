"""What is asked of a prediction, and what it says. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scpl_ray.planning import baselines, memory
from scpl_ray.planning.costs import Costs
from scpl_ray.planning.devices import Device
from scpl_ray.planning.links import Link
from scpl_ray.planning.simulation import StageTimes

BASELINE_NAMES = ("bp", *baselines.KINDS)


@dataclass(frozen=True)
class Wish:
    """What is asked for beside the config.

    Attributes:
        stages: how many; None: as the config says.
        link: between stages.
        cores: stages that can compute at once; infinite: a device each.
        call_s: seconds that a call costs a stage beside its batches.
        batch_s: seconds that a batch costs a stage beside its compute and its copies.
        driver_s: seconds that a call costs the driver and Ray, for each stage.
        device: for its memory; None: not known.
        steps_per_epoch: None: not known.
        price_per_hour: of one device; None: not known.
        beside_s: seconds of each stage's step, of this very cut, measured while all stages compute
            at once; None: the layers' own costs are taken.
    """

    stages: int | None
    link: Link
    cores: float = math.inf
    call_s: float = 0.0
    batch_s: float = 0.0
    driver_s: float = 0.0
    device: Device | None = None
    steps_per_epoch: int | None = None
    price_per_hour: float | None = None
    beside_s: tuple[float, ...] | None = None


@dataclass(frozen=True)
class StagePlan:
    """One stage; times of a batch in seconds, sizes in MiB.

    Attributes:
        layers: names.
        times: the parts of its step.
        busy: share of the time that it works.
        memory: by part.
        fits: whether that is less than the device has; None: not known.
        handed_mib: that its link carries a step.
        held_mib: the most that lies handed over and not consumed before it.
    """

    layers: tuple[str, ...]
    times: StageTimes
    busy: float
    memory: memory.Memory
    fits: bool | None
    handed_mib: float
    held_mib: float


@dataclass(frozen=True)
class Way:
    """One way to train the network, ours or another.

    Attributes:
        kind: "scpl" or one of BASELINE_NAMES.
        devices: that it takes.
        step_s: seconds of a batch.
        micro_batches: of a batch.
        efficiency: compute of all devices / (devices x step).
        memory_mib: of its fullest device.
        epoch_s: seconds of an epoch; None: its steps are not known.
        epoch_cost: in the currency of the price; None: not known.
    """

    kind: str
    devices: int
    step_s: float
    micro_batches: int
    efficiency: float
    memory_mib: float
    epoch_s: float | None
    epoch_cost: float | None


@dataclass(frozen=True)
class Plan:
    """The prediction.

    Attributes:
        name: of the config.
        costs: that it rests on.
        notes: what was assumed or replaced, to be said aloud.
        stages: in order.
        step_s: of ours, in steady state.
        limit_s: the least that a step can cost: the slowest stage, or all of them on the cores.
        fill_s: until the last stage begins.
        window: calls under way at most.
        per_call: batches of a call.
        steps_per_epoch: None: not known.
        ways: ours first.
    """

    name: str
    costs: Costs
    notes: list[str]
    stages: list[StagePlan]
    step_s: float
    limit_s: float
    fill_s: float
    window: int
    per_call: int
    steps_per_epoch: int | None
    ways: list[Way]

    @property
    def efficiency(self) -> float:
        """As `bench --pipeline` has it: 1.0 where all but the slowest stage is hidden."""
        return self.limit_s / self.step_s if self.step_s > 0 else 1.0

    @property
    def cut(self) -> list[int]:
        """Layers of each stage."""
        return [len(stage.layers) for stage in self.stages]
