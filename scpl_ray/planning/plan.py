"""Puts a prediction together: costs -> cut -> simulated schedule, memory, baselines. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from scpl_ray.balance import best_cut, useful_stages
from scpl_ray.config.schema import Config
from scpl_ray.engine.call_size import CallSize
from scpl_ray.errors import ConfigError
from scpl_ray.objective import is_end_to_end
from scpl_ray.partition import partition
from scpl_ray.planning import baselines, memory
from scpl_ray.planning.baselines import StagePass
from scpl_ray.planning.costs import Costs, longer
from scpl_ray.planning.devices import BANDWIDTH_SHARE, UTILISATION
from scpl_ray.planning.prediction import Plan, StagePlan, Way, Wish
from scpl_ray.planning.simulation import Schedule, StageTimes, simulate
from scpl_ray.stage_facts import StageStats


def check_plannable(config: Config) -> None:
    """Checks what needs no costs.

    Raises:
        ConfigError: the method's stages wait for each other.
    """
    if is_end_to_end(config.method):
        raise ConfigError(
            f"method: {config.method!r} trains end to end, and the plan is of stages that do not "
            "wait for each other; it has rows for BP, GPipe, 1F1B and zero bubble beside a method "
            "with local losses, so give one (method=scpl)"
        )


def make_plan(config: Config, costs: Costs, wish: Wish) -> Plan:
    """Predicts.

    Raises:
        ConfigError: more stages than the network can have, or a cut that does not fit it.
    """
    notes = []
    have = len(costs.layers)
    if config.replicas == "auto":
        raise ConfigError("replicas: auto is found when training starts; give numbers to predict")
    for number, count in sorted(config.replicas.items()):
        notes.append(
            f"stage {number} has {count} replicas: taken as {count} times as fast; that they "
            "exchange gradients is not in it"
        )
    if wish.stages is not None and wish.stages > have:
        costs = longer(costs, wish.stages)
        notes.append(
            f"the model has {have} layers; for {wish.stages} stages its last one, "
            f"{costs.layers[have - 1].name!r}, is repeated {wish.stages - have} times: "
            "this is a deeper network than the config's"
        )
    cut = find_cut(config, costs, wish)
    bounds = _bounds(cut)
    replicas = [config.replicas_of(k) for k in range(1, len(bounds) + 1)]
    times = [
        _shared(costs.stage_times(a, b), r) for (a, b), r in zip(bounds, replicas, strict=True)
    ]
    if wish.beside_s is not None:
        times = [_lasting(t, s) for t, s in zip(times, wish.beside_s, strict=True)]
    times = [dataclasses.replace(t, receive_s=t.receive_s + wish.batch_s) for t in times]
    per_call = batches_per_call(config, times, costs.input_mib, wish.cores)
    devices = sum(replicas)
    window = config.pipeline.window(devices, per_call > 1, wish.cores)
    found = simulate(
        times,
        Schedule(
            window,
            per_call,
            wish.call_s,
            config.pipeline.ahead(per_call > 1),
            costs.data_s,
            wish.driver_s * devices,
            wish.cores,
        ),
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
    work = sum(t.seconds * r for t, r in zip(times, replicas, strict=True))
    limit = max(max(t.seconds for t in times), work / wish.cores)
    # Replicas that share cores do not get them for nothing.
    step = max(found.step_s, limit) if config.replicas else found.step_s
    places = min(devices, wish.cores)
    ours = _way(
        "scpl", devices, step, 1, work / (places * step),
        max(row.memory.total for row in rows), wish,
    )  # fmt: skip
    others = _baselines(config, costs, bounds, wish, states)
    return Plan(
        config.name,
        costs,
        notes + _assumptions(costs, wish),
        rows,
        step,
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


def batches_per_call(
    config: Config, times: Sequence[StageTimes], input_mib: float, at_once: float = math.inf
) -> int:
    """What the engine would come to: the same rule, fed with the predicted steps.

    Args:
        config: the job.
        times: of each stage, alone.
        input_mib: of a batch.
        at_once: stages that have a core at the same time.
    """
    size = CallSize(config.pipeline, single=bool(config.replicas), at_once=at_once)
    given = [input_mib, *(t.output_mib for t in times[:-1])]
    shared = size.sharing(len(times))
    stats = [_stats(t, mib, shared) for t, mib in zip(times, given, strict=True)]
    for _ in range(64):  # more than it looks back
        size.saw(stats)
    return size.now()


def _shared(times: StageTimes, replicas: int) -> StageTimes:
    return dataclasses.replace(
        times,
        forward_s=times.forward_s / replicas,
        update_s=times.update_s / replicas,
        receive_s=times.receive_s / replicas,
        send_s=times.send_s / replicas,
    )


def _lasting(times: StageTimes, seconds: float) -> StageTimes:
    """The same parts of a step that takes so many seconds of compute."""
    factor = seconds / max(times.forward_s + times.update_s, 1e-9)
    return dataclasses.replace(
        times, forward_s=factor * times.forward_s, update_s=factor * times.update_s
    )


def _stats(times: StageTimes, given_mib: float, shared: float) -> StageStats:
    """Of a step that takes so many times as long as alone."""
    return StageStats(
        0, 0, 0.0, 0.0, None, None, 0, 0.0, 0.0, shared * times.forward_s, shared * times.update_s,
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
    if wish.beside_s is not None:
        lines.append("the stages of this cut were measured while all of them computed at once")
    if wish.batch_s:
        lines.append(f"a batch costs a stage {1000 * wish.batch_s:g} ms beside its compute")
    if wish.call_s:
        lines.append(f"a call costs each stage {1000 * wish.call_s:g} ms beside its batches")
    if wish.driver_s:
        lines.append(f"a call costs the driver and Ray {1000 * wish.driver_s:g} ms for each stage")
    lines.append(
        "GPipe, 1F1B, ZB-H1: best power of two of micro-batches, each at its share of the batch's "
        "time, no overhead: what small micro-batches lose on a device is not modelled"
    )
    return lines
