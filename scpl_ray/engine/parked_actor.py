"""The actor that holds the stages that have left training."""

from __future__ import annotations

import torch

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import DataInfo
from scpl_ray.engine.actors import extend_path
from scpl_ray.engine.base import StageState
from scpl_ray.engine.build import build_stage, prepare_process
from scpl_ray.engine.fence import OutOfTurn
from scpl_ray.engine.transport import Packet, open_transport
from scpl_ray.stage import Stage
from scpl_ray.stage_facts import ExitScore, StageSpec


class ParkedActor:
    """Holds the stages that have left: they evaluate what the last training stage hands on.

    Holds no device and no reserved core: its stages compute on the CPU.

    Args:
        config: the run's config.
        threads: CPU threads, equal in all stages.
        paths: entries of the driver's module path.
        transport: what the stages that train send with.
    """

    def __init__(
        self, config: Config, threads: int, paths: list[str], transport: str = "object_store"
    ) -> None:
        extend_path(paths)
        prepare_process(config, threads)
        self.stages: dict[int, Stage] = {}
        self.transport = open_transport(
            transport, torch.device("cpu"), "the process of the stages that have left"
        )

    def add(
        self,
        spec: StageSpec,
        config: Config,
        info: DataInfo,
        totals: tuple[int, int],
        state: StageState,
    ) -> None:
        """Takes a stage in, in place of one of the same number."""
        stage = build_stage(spec, config, info, *totals, "cpu", state=state)
        self.stages[spec.number] = stage

    def ready(self) -> None:
        """It lives."""

    def evaluate(self, packet: Packet, numbers: tuple[int, ...]) -> list[ExitScore]:
        """Scores one batch with the stages of these numbers, one after another.

        Raises:
            OutOfTurn: one of them is not here: its process died before it could be taken in.
        """
        activation, labels = self.transport.unpack(packet)
        scores = []
        for number in numbers:
            if number not in self.stages:
                raise OutOfTurn(f"stage {number} is not here yet")
            activation, score = self.stages[number].evaluate(activation, labels)
            scores.append(score)
        return scores
