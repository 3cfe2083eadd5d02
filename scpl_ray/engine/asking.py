"""Asking a process for something, with a deadline, and saying who did not answer."""

from __future__ import annotations

from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from scpl_ray.config.running import PipelineConfig
from scpl_ray.engine.base import DataReady
from scpl_ray.engine.faults import ProcessDied
from scpl_ray.engine.member import Member
from scpl_ray.engine.members import Members
from scpl_ray.engine.placement import Placement, shortage
from scpl_ray.engine.recovery import DATA, Recovery
from scpl_ray.engine.source import Source
from scpl_ray.engine.wording import worded
from scpl_ray.errors import PipelineTimeoutError, ResourceError


class Asking:
    """Waits for answers.

    Args:
        config: the deadlines.
        members: where a stage that died before training is replaced.
        recovery: counts it.
    """

    def __init__(self, config: PipelineConfig, members: Members, recovery: Recovery) -> None:
        self._config, self._members, self._recovery = config, members, recovery

    def get(
        self,
        ref: Any,
        who: str,
        key: Literal["step_timeout_s", "prepare_timeout_s"] = "step_timeout_s",
    ) -> Any:
        """The answer of a process.

        Args:
            ref: what was asked for.
            who: the process, in words.
            key: of `pipeline`: the deadline.

        Raises:
            PipelineTimeoutError: none came in time.
            ProcessDied: the process is gone.
            ScplRayError: its code failed.
        """
        limit: float = getattr(self._config, key)
        try:
            return ray.get(ref, timeout=limit)
        except GetTimeoutError:
            raise PipelineTimeoutError(
                f"{who} did not answer within pipeline.{key} = {limit:g} s; it hangs or is that "
                "slow: raise the timeout"
            ) from None
        except RayActorError as error:
            raise ProcessDied(str(worded(error, who))) from None
        except RayTaskError as error:
            raise worded(error, who) from None

    def wait_built(self, built: list[Any], placement: Placement) -> None:
        """Waits until all first stages have answered, one way or the other.

        Raises:
            ResourceError: some did not start in time.
        """
        limit = self._config.start_timeout_s
        _, late = ray.wait(built, num_returns=len(built), timeout=limit)
        if not late:
            return
        names = ", ".join(str(built.index(ref) + 1) for ref in late)
        free, total = ray.available_resources(), ray.cluster_resources()
        raise ResourceError(
            f"stages {names} did not start within pipeline.start_timeout_s = {limit:g} s; "
            f"{shortage(placement, len(built), free, total)}. Free resources, use fewer stages, "
            "or raise the timeout"
        )

    def built(self, ref: Any, member: Member) -> None:
        """Takes in that a stage has started; one that died is replaced."""
        while True:
            try:
                member.started = self.get(ref, member.name)
                return
            except ProcessDied as died:
                self._recovery.died_early(member.name, died.cause)
                ref = self._members.replace(member)

    def prepared(self, source: Source, tokenizer: str | None) -> DataReady:
        """Has the data process load the data, and another one if it dies on the way."""
        asked = source.prepare(tokenizer)
        while True:
            try:
                ready: DataReady = self.get(asked, DATA, "prepare_timeout_s")
            except ProcessDied as died:
                self._recovery.died_early(DATA, died.cause)
                asked = source.renew()
            else:
                source.keep_vocabulary(ready.info.tokenizer)
                return ready
