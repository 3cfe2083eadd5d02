"""Puts a prediction together: costs -> cut -> simulated schedule, memory, baselines. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scpl_ray.balance import best_cut, useful_stages
from scpl_ray.config.schema import Config
from scpl_ray.engine.call_size import CallSize
from scpl_ray.partition import partition
from scpl_ray.planning import baselines, memory
from scpl_ray.planning.baselines import StagePass
from scpl_ray.planning.costs import Costs, longer
from scpl_ray.planning.devices import BANDWIDTH_SHARE, UTILISATION, Device
from scpl_ray.planning.links import Link
from scpl_ray.planning.simulation import Schedule, StageTimes, simulate
from scpl_ray.stage_facts import StageStats

BASELINE_NAMES = ("bp", *baselines.KINDS)


@dataclass(frozen=True)
class Wish:
    """What is asked for beside the config.

    Attributes:
        stages: how many; None: as the config says.
        link: between stages.
        cores: stages that can compute at once; infinite: a device each.
        call_s: seconds that a call costs a stage beside its batches.
        device: for its memory; None: not known.
        steps_per_epoch: None: not known.
        price_per_hour: of one device; None: not known.
    """

    stages: int | None
    link: Link
    cores: float = math.inf
    call_s: float = 0.0
    device: Device | None = None
    steps_per_epoch: int | None = None
    price_per_hour: float | None = None


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


def make_plan(config: Config, costs: Costs, wish: Wish) -> Plan:
    """Predicts.

    Raises:
        ConfigError: more stages than the network can have, or a cut that does not fit it.
    """
    notes = []
    have = len(costs.layers)
    if wish.stages is not None and wish.stages > have:
        costs = longer(costs, wish.stages)
        notes.append(
            f"the model has {have} layers; for {wish.stages} stages its last one, "
            f"{costs.layers[have - 1].name!r}, is repeated {wish.stages - have} times: "
            "this is a deeper network than the config's"
        )
    cut = find_cut(config, costs, wish)
    bounds = _bounds(cut)
    times = [costs.stage_times(a, b) for a, b in bounds]
    per_call = batches_per_call(config, times, costs.input_mib)
    window = config.pipeline.window(len(cut), per_call > 1)
    found = simulate(
        times,
        Schedule(window, per_call, wish.call_s, config.pipeline.prefetch, costs.data_s, wish.cores),
        wish.link,
    )
    states = memory.optimizer_states(config.optimizer.name, config.optimizer.momentum)
    room = None if wish.device is None else wish.device.memory_gib * 1024
    rows = []
    for k, (a, b) in enumerate(bounds):
        needs = memory.stage_memory(costs, a, b, states)
        before = times[k - 1].output_mib if k else costs.input_mib
        rows.append(
            StagePlan(
                tuple(c.name for c in costs.layers[a : b + 1]),
                times[k],
                found.busy[k],
                needs,
                None if room is None else needs.total <= room,
                times[k].output_mib,
                found.held[k] * before,
            )
        )
    work = sum(t.seconds for t in times)
    limit = max(max(t.seconds for t in times), work / wish.cores)
    places = min(len(cut), wish.cores)
    ours = _way(
        "scpl", len(cut), found.step_s, 1, work / (places * found.step_s),
        max(row.memory.total for row in rows), wish,
    )  # fmt: skip
    others = _baselines(config, costs, bounds, wish, states)
    return Plan(
        config.name,
        costs,
        notes + _assumptions(costs, wish),
        rows,
        found.step_s,
        limit,
        found.fill_s,
        window,
        per_call,
        wish.steps_per_epoch,
        [ours, *others],
    )


def find_cut(config: Config, costs: Costs, wish: Wish) -> list[int]:
    """Layers of each stage: the best cut into so many, or the config's own."""
    layers = len(costs.layers)
    if wish.stages is not None:
        return best_cut(costs.stage_seconds, layers, wish.stages)
    if config.stages == "auto":
        most = layers if math.isinf(wish.cores) else max(1, int(wish.cores))
        return useful_stages(costs.stage_seconds, layers, most)
    names = tuple(str(i) for i in range(layers))
    return [len(names) for names in partition(names, config.stages)]


def batches_per_call(config: Config, times: Sequence[StageTimes], input_mib: float) -> int:
    """What the engine would come to: the same rule, fed with the predicted steps."""
    size = CallSize(config.pipeline)
    given = [input_mib, *(t.output_mib for t in times[:-1])]
    stats = [_stats(t, mib) for t, mib in zip(times, given, strict=True)]
    for _ in range(64):  # more than it looks back
        size.saw(stats)
    return size.now()


def _stats(times: StageTimes, given_mib: float) -> StageStats:
    return StageStats(
        0, 0, 0.0, 0.0, None, None, 0, 0.0, 0.0, times.forward_s, times.update_s,
        given_mib=given_mib, receive_s=times.receive_s, send_s=times.send_s,
        handed_mib=times.output_mib,
    )  # fmt: skip


def _bounds(cut: Sequence[int]) -> list[tuple[int, int]]:
    ends = [sum(cut[: k + 1]) for k in range(len(cut))]
    return [(end - size, end - 1) for end, size in zip(ends, cut, strict=True)]


def _baselines(
    config: Config, costs: Costs, bounds: list[tuple[int, int]], wish: Wish, states: int
) -> list[Way]:
    # End-to-end backpropagation is cut by its own costs: it has a head on the last stage only.
    rows = [_pass(costs, a, b) for a, b in bounds]
    if len(bounds) > 1:

        def seconds(a: int, b: int) -> float:
            own = _pass(costs, a, b)
            return own.forward_s + own.backward_s + own.optimizer_s

        bounds = _bounds(best_cut(seconds, len(costs.layers), len(bounds)))
        rows = [_pass(costs, a, b) for a, b in bounds]
    alone = baselines.one_device(rows)
    whole = memory.backprop_memory(costs, 0, len(costs.layers) - 1, states, alone.saved_mib[0])
    found = [_way("bp", 1, alone.step_s, 1, 1.0, whole.total, wish)]
    for kind in baselines.KINDS if len(rows) > 1 else ():
        best = baselines.best_pipelined(kind, rows, config.train.batch_size, wish.link)
        # Shared cores cannot do more than all of their time.
        step = max(best.step_s, alone.step_s / wish.cores)
        places = min(len(rows), wish.cores)
        fullest = max(
            memory.backprop_memory(costs, a, b, states, saved).total
            for (a, b), saved in zip(bounds, best.saved_mib, strict=True)
        )
        share = alone.step_s / (places * step) if step > 0 else 1.0
        found.append(_way(kind, len(rows), step, best.micro_batches, share, fullest, wish))
    return found


def _pass(costs: Costs, first: int, last: int) -> StagePass:
    own = costs.layers[first : last + 1]
    end = last + 1 == len(costs.layers)
    # Heads behind the very last layer stand for the classifier and its loss.
    head = own[-1].head_s if end else 0.0
    backward = sum(c.full_backward_s for c in own)
    return StagePass(
        sum(c.forward_s for c in own) + head / 3,
        backward + 2 * head / 3,
        sum(c.optimizer_s for c in own),
        0.0 if end else own[-1].activation_mib,
        sum(c.saved_mib for c in own),
    )


def _way(
    kind: str, devices: int, step: float, micro: int, share: float, mib: float, wish: Wish
) -> Way:
    steps, price = wish.steps_per_epoch, wish.price_per_hour
    epoch = None if steps is None else steps * step
    cost = None if epoch is None or price is None else epoch / 3600 * price * devices
    return Way(kind, devices, step, micro, share, mib, epoch, cost)


def _assumptions(costs: Costs, wish: Wish) -> list[str]:
    lines = [f"layer costs: {costs.source}"]
    if costs.estimated:
        lines.append(
            f"these are ESTIMATES: {UTILISATION:.0%} of the published peak FLOP/s and "
            f"{BANDWIDTH_SHARE:.0%} of the memory bandwidth; kernel launches and Python are not in "
            "them, so that small layers look faster than they are"
        )
    link = wish.link
    if math.isinf(link.bytes_s) and len(costs.layers) > 1:
        lines.append("links cost nothing beside their latency (no --link)")
    if not math.isinf(wish.cores):
        lines.append(f"stages share {wish.cores:g} places to compute, evenly")
    if wish.call_s:
        lines.append(f"a call costs each stage {1000 * wish.call_s:g} ms beside its batches")
    lines.append(
        "GPipe, 1F1B, ZB-H1: best power of two of micro-batches, each at its share of the batch's "
        "time, no overhead: what small micro-batches lose on a device is not modelled"
    )
    return lines
