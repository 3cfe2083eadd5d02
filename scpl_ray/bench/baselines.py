"""End-to-end backpropagation over the same layers: what people use instead.

- `bp`: one process, one thread; `bp_all_cores`: one process, all threads.
- `gpipe` (Huang et al. 2019, arXiv 1811.06965), `1f1b` (PipeDream; Narayanan et al. 2021, arXiv
  2104.04473): torch.distributed.pipelining over gloo, one process for each stage.

The network is the config's layers and the exit head behind the last one; the loss its cross
entropy; optimizer, batches, threads and allocator settings are those of the stages. Where a mask
goes with the batch, each process has it from its own copy of the data.
"""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.config import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.data.loader import BatchLoader
from scpl_ray.engine.build import prepare_stage_process
from scpl_ray.engine.data import load_data
from scpl_ray.engine.placement import num_cores
from scpl_ray.errors import RunError
from scpl_ray.models.activation import Activation, from_batch
from scpl_ray.models.layers import apply_layer
from scpl_ray.models.registry import build_model
from scpl_ray.optim import make_optimizer
from scpl_ray.peak_memory import PeakMemory, own_mib
from scpl_ray.stage_facts import StageSpec
from scpl_ray.stage_module import StageModule

KINDS = ("bp", "bp_all_cores", "gpipe", "1f1b")
Given = tuple[Activation, Tensor]
_WARM_UP = 3
_LIMIT_S = 600.0


@dataclass(frozen=True)
class Baseline:
    """One way to train the same network.

    Attributes:
        name: which.
        step_ms: a step in steady state, median.
        micro_batches: of a batch; 1 where there are none.
        peak_mib: the most that one of its processes grew by, from before the network was built,
            in memory of its own.
    """

    name: str
    step_ms: float
    micro_batches: int = 1
    peak_mib: float = 0.0
    weights: dict[str, Any] = field(default_factory=dict, repr=False)


class Segment(nn.Module):
    """The layers of one stage, as a plain module; the last one ends in logits.

    Args:
        spec: which layers.
        config: the run's config.
        info: what the data is.
        last: whether the classifier belongs to it.
    """

    def __init__(self, spec: StageSpec, config: Config, info: DataInfo, last: bool) -> None:
        super().__init__()
        model = build_model(config, info)
        whole = StageModule(
            StageSpec(spec.number, spec.layers, last), model, config, info.num_classes
        )
        self.names, self.stack, self.reduce = whole.names, whole.stack, whole.reduce
        self.head = whole.objective.exit_head if last else None

    def forward(
        self, hidden: Tensor, *states: Tensor, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """[B, ...] and states -> the next segment's input, or logits [B, C]."""
        activation = Activation(hidden, mask, states)
        for layer in self.stack:
            activation = apply_layer(layer, activation)
        if self.head is not None:
            logits: Tensor = self.head(self.reduce(activation))
            return logits
        return (activation.hidden, *activation.states) if activation.states else activation.hidden


def baseline(kind: str, config: Config, specs: list[StageSpec], steps: int, micro: int) -> Baseline:
    """Trains some steps in fresh processes and times them.

    Args:
        kind: one of KINDS.
        config: the job.
        specs: the stages.
        steps: timed steps.
        micro: micro-batches; must divide the batch.

    Raises:
        RunError: a process failed or hung.
    """
    many = kind in ("gpipe", "1f1b")
    world = len(specs) if many else 1
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        args = (kind, config, specs, steps, micro, store, results)
        processes = [
            context.Process(target=_rank, args=(rank, world, *args), daemon=True)
            for rank in range(world)
        ]
        try:
            for process in processes:
                process.start()
            found = [_answer(results, processes) for _ in processes]
        finally:
            for process in processes:
                process.kill()
                process.join()
    weights = {name: value for one in found for name, value in one["weights"].items()}
    step_ms = max(one["step_ms"] for one in found)
    peak = max(one["peak_mib"] for one in found)
    return Baseline(kind, step_ms, micro, peak, weights)


def _answer(results: Any, processes: list[Any]) -> dict[str, Any]:
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        try:
            found: dict[str, Any] = results.get(timeout=0.5)
        except queue.Empty:
            if any(p.exitcode not in (None, 0) for p in processes):
                raise RunError("a process of a baseline ended unexpectedly") from None
            continue
        if "error" in found:
            raise RunError(f"a baseline failed: {found['error']}")
        return found
    raise RunError(f"a baseline did not end within {_LIMIT_S:g} s")


def _rank(
    rank: int,
    world: int,
    kind: str,
    config: Config,
    specs: list[StageSpec],
    steps: int,
    micro: int,
    store: str,
    results: Any,
) -> None:
    try:
        results.put(_train(rank, world, kind, config, specs, steps, micro, store))
    except Exception as error:
        results.put({"error": f"{type(error).__name__}: {error}"})
        raise


def _train(
    rank: int,
    world: int,
    kind: str,
    config: Config,
    specs: list[StageSpec],
    steps: int,
    micro: int,
    store: str,
) -> dict[str, Any]:
    prepare_stage_process(config, num_cores() if kind == "bp_all_cores" else 1)
    loader, ready = load_data(config)
    batches = _full_batches(config, loader, steps + _WARM_UP)
    if world > 1:
        # torch's pipelines take tensors of one shape.
        batches = _as_long(batches)
    before = own_mib()
    own = [specs[rank]] if world > 1 else specs
    segments = [Segment(spec, config, ready.info, spec is specs[-1]) for spec in own]
    params = [p for segment in segments for p in segment.parameters()]
    optimizer = make_optimizer(config.optimizer, 1, [params])
    step = (
        _pipelined(segments[0], rank, world, kind, micro, store) if world > 1 else _whole(segments)
    )
    times = []
    peak = PeakMemory()
    for activation, labels in batches:
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        step(activation, labels)
        optimizer.step()
        times.append(time.perf_counter() - begun)
    grown = peak.end() - before
    weights = {
        f"{name}.{k}": v.numpy()
        for segment in segments
        for name, layer in zip(segment.names, segment.stack, strict=True)
        for k, v in layer.state_dict().items()
    }
    if world > 1:
        torch.distributed.destroy_process_group()
    return {
        "step_ms": 1000 * statistics.median(times[_WARM_UP:]),
        "peak_mib": grown,
        "weights": weights,
    }


def _full_batches(config: Config, loader: BatchLoader, count: int) -> list[Given]:
    """The first batches that are whole; the last of an epoch may be smaller."""
    every = (from_batch(loader.train_batch(i)) for i in itertools.count())
    rows = config.train.batch_size * loader.info.views
    whole = (pair for pair in every if len(pair[1]) == rows)
    return list(itertools.islice(whole, count))


def _as_long(batches: list[Given]) -> list[Given]:
    """Pads all texts to the length of the longest, [B, T]; images stay."""
    if batches[0][0].mask is None:
        return batches
    most = max(activation.hidden.shape[1] for activation, _ in batches)

    def padded(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, most - tensor.shape[1]))

    return [(activation.map(padded), labels) for activation, labels in batches]


def _whole(segments: list[Segment]) -> Any:
    def step(activation: Activation, labels: Tensor) -> None:
        handed: Any = activation.hidden
        for segment in segments:
            handed = handed if isinstance(handed, tuple) else (handed,)
            handed = segment(*handed, mask=activation.mask)
        F.cross_entropy(handed, labels).backward()

    return step


def _pipelined(segment: Segment, rank: int, world: int, kind: str, micro: int, store: str) -> Any:
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    stage = PipelineStage(segment, rank, world, torch.device("cpu"))
    schedule = (ScheduleGPipe if kind == "gpipe" else Schedule1F1B)(
        stage, micro, loss_fn=F.cross_entropy
    )

    def step(activation: Activation, labels: Tensor) -> None:
        own: dict[str, Any] = {} if activation.mask is None else {"mask": activation.mask}
        if rank == 0:
            schedule.step(activation.hidden, **own)
        elif rank == world - 1:
            schedule.step(target=labels, **own)
        else:
            schedule.step(**own)

    return step
