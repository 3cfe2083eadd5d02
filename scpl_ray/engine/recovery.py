"""After a fault: who is dead, who takes its place, and from where the work goes on.

Only what died goes back: a stage to its newest copy, which the object store holds, and through the
inputs that it was given since. The stages before it go on with what they have; those behind it wait
for what it hands on. Where copies are lost too (a machine is gone), all stages go back to the
newest checkpoint on storage, or to the beginning, and the batches since are made again. Stages
that train end to end depend on each other both ways, and go back together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from scpl_ray import schedule
from scpl_ray.config.schema import Config
from scpl_ray.engine import cluster
from scpl_ray.engine.base import Resumed
from scpl_ray.engine.budget import Budget
from scpl_ray.engine.chain import Chain
from scpl_ray.engine.member import Member
from scpl_ray.engine.resend import Resend
from scpl_ray.engine.wording import first_line, worded
from scpl_ray.errors import PipelineTimeoutError, ResourceError, RunError, ScplRayError, StageError

_QUICK_S = 0.3
DATA, PARKED = "the data process", "the process of the stages that have left"


@dataclass(frozen=True)
class _Dead:
    who: str
    step: int
    cause: str
    member: Member | None = None
    hangs: bool = False


class Recovery:
    """Mends a chain.

    Args:
        config: the run's config.
        chain: where the work is.
        say: takes one line for the log.
    """

    def __init__(self, config: Config, chain: Chain, say: Callable[[str], None]) -> None:
        self.config, self.chain, self.say = config, chain, say
        self.resend = Resend(chain)
        self.budget = Budget(config.fault_tolerance)
        self.saved: Callable[[int], Resumed | None] = lambda at_most: None
        self.checkpoints: list[tuple[int, int]] = []
        self.start_step = 0
        self._copies_lost = False

    def died_early(self, who: str, cause: str) -> None:
        """A process died before training began; another takes its place.

        Raises:
            RunError: too many did.
        """
        self._count(_Dead(who, -1, cause))
        self.say(f"{who} died before training: {cause}; it is replaced")

    def written(self, step: int, number: int) -> None:
        """A checkpoint is on storage: of `step`, after the work `number`. Of any thread."""
        self.checkpoints = [*self.checkpoints[-1:], (step, number)]

    def prune(self) -> None:
        """Forgets work to which nothing will go back: before the older of two checkpoints."""
        if len(self.checkpoints) == 2:
            oldest = min(member.at for member in self.chain.members.all())
            self.chain.forget_before(min(self.checkpoints[0][1], oldest))

    def mend(self, why: str, suspects: tuple[Member, ...] = ()) -> None:
        """Brings the chain back to where it was; returns when all work is under way again.

        Args:
            why: what was noticed.
            suspects: stages that answer no more, though their processes may live.

        Raises:
            RunError: the faults are too many, or nothing that was kept helps.
        """
        begun, since = time.monotonic(), len(self.budget.failures)
        for suspect in suspects:
            suspect.end_process()
        anew = False
        while True:
            self.chain.generation += 1
            dead, done = self._look(suspects, why)
            suspects = ()
            lost = not dead
            if lost:
                self._count(_Dead("the pipeline", self._step_of(self.chain), why))
            dead = [fault for fault in dead if self._count(fault)]
            gone = self._lost_machines(dead)
            lost, self._copies_lost = lost or gone or self._copies_lost, False
            # For all attempts: kept batches may be of a data process that died in an earlier one.
            anew = anew or any(fault.who == DATA for fault in dead)
            for fault in dead:
                at = f" at step {fault.step}" if fault.step >= 0 else ""
                self.say(f"{fault.who} died{at}: {fault.cause}; it is replaced")
            ok = self._all_back(dead, done, gone) if lost else self._one_back(dead, done, anew)
            if ok:
                break
            why = "another fault while the work was sent again"
        took = time.monotonic() - begun
        self.budget.took(since, took)
        self.say(f"the pipeline goes on after {took:.1f} s; no batch was lost")

    def _look(self, suspects: tuple[Member, ...], why: str) -> tuple[list[_Dead], dict[int, int]]:
        """Asks everyone; returns the dead, and what the others have done last."""
        members, chain = self.chain.members, self.chain
        asked: dict[Any, Member | str] = {m.survive(chain.generation): m for m in members.all()}
        asked[chain.source.actor.alive.remote()] = DATA
        if members.parked_actor is not None:
            asked[members.parked_actor.ready.remote()] = PARKED
        refs = list(asked)
        arrived = ray.wait(refs, num_returns=len(refs), timeout=_QUICK_S)[0]
        if len(arrived) < len(refs):
            limit = self.config.pipeline.step_timeout_s
            arrived = ray.wait(refs, num_returns=len(refs), timeout=limit)[0]
        dead, done = [], {}
        for ref, who in asked.items():
            name = who if isinstance(who, str) else who.name
            try:
                last = ray.get(ref, timeout=0 if ref in arrived else 0.01)
            except GetTimeoutError:
                if isinstance(who, str):
                    raise PipelineTimeoutError(f"{name} does not answer; it hangs") from None
                who.end_process()
                dead.append(self._hanging(who))
            except Exception as error:
                member = None if isinstance(who, str) else who
                step = self._step_of(chain) if member is None else self._died_at(member)
                cause = "its process ended unexpectedly"
                if "died unexpectedly" not in (line := first_line(error)):
                    cause += f" ({line})"
                if member is not None and member in suspects:
                    dead.append(self._hanging(member, why))
                else:
                    dead.append(_Dead(name, step, cause, member))
            else:
                if not isinstance(who, str):
                    done[id(who)] = last
        return dead, done

    def _hanging(self, member: Member, why: str = "") -> _Dead:
        limit = self.config.pipeline.step_timeout_s
        cause = why or f"it did not answer within pipeline.step_timeout_s = {limit:g} s"
        return _Dead(member.name, self._died_at(member), cause, member, hangs=True)

    def _died_at(self, member: Member) -> int:
        """The step at which a dead stage was."""
        for given in member.log.values():
            ready = ray.wait([given.answer.ref], timeout=0)[0]
            try:
                if ready:
                    ray.get(ready[0])
                    continue
            except Exception:
                pass
            if isinstance(given.work, schedule.Train):
                return given.work.step
            break
        return self._step_of(self.chain)

    def _place(self) -> int:
        """Number of the oldest work under way; -1: none."""
        return self.chain.flying[0].number if self.chain.flying else -1

    @staticmethod
    def _step_of(chain: Chain) -> int:
        """The oldest training step under way; -1: none."""
        steps = (f.work.step for f in chain.flying if isinstance(f.work, schedule.Train))
        return next(steps, -1)

    def _count(self, fault: _Dead) -> bool:
        """Counts a fault; False: it was of a stage on probation, and one too many for that stage.

        Raises:
            RunError: it was one too many for the run.
        """
        chain, member = self.chain, fault.member
        if member is not None and not any(m is member for m in chain.members.all()):
            return False  # it went with the one that fed it
        why = self.budget.count(fault.who, fault.step, fault.cause, self._place())
        if not why:
            return True
        at = f" at step {fault.step}" if fault.step >= 0 else ""
        error: ScplRayError = RunError(f"{fault.who}{at}: {fault.cause}; the run ends: {why}")
        if fault.hangs:
            error = PipelineTimeoutError(f"{fault.cause}; the run ends: {why}")
        elif member is not None:
            cause = f"{fault.cause}; the run ends: {why}"
            error = StageError(member.spec.number, fault.step, "", cause)
        if member is None or not member.on_probation or not chain.flying:
            raise error
        chain.lose(member, StageError(member.spec.number, fault.step, "", f"{fault.cause}; {why}"))
        return False

    def _lost_machines(self, dead: list[_Dead]) -> bool:
        """Whether a dead stage's whole machine is gone, and the copies on it too."""
        nodes = {
            f.member.started.node for f in dead if f.member is not None and f.member.started
        } - {cluster.own_node()}
        return any(not cluster.node_answers(node) for node in nodes)

    def _one_back(self, dead: list[_Dead], done: dict[int, int], anew: bool) -> bool:
        """Replaces the dead; each goes on from its own copy. End to end, all stages do."""
        stages = [f.member for f in dead if f.member is not None]
        self._renew(stages, [f.who for f in dead])
        if self.chain.end_to_end:
            stages += self._rebuild([m for m in self.chain.members.all() if m not in stages])
        for member in stages:
            done[id(member)] = member.at
        return self._resend(stages, done, anew)

    def _rebuild(self, stages: list[Member]) -> list[Member]:
        """Has stages that live go back to their newest copy, all at once."""
        built = [(self.chain.members.build(member), member) for member in stages]
        for ref, member in built:
            self._wait(ref, member.name, self.config.pipeline.start_timeout_s)
        return stages

    def _renew(self, stages: list[Member], who: list[str]) -> None:
        """Starts what is dead, all at once, and waits for it."""
        members, config = self.chain.members, self.config
        waiting = [(members.replace(member), member) for member in stages]
        if DATA in who:
            limit = config.pipeline.prepare_timeout_s
            self._wait(self.chain.source.renew(), DATA, limit)
        if PARKED in who:
            members.renew_parked()
        for ref, member in waiting:
            limit = config.pipeline.start_timeout_s
            member.started = self._wait(ref, member.name, limit)

    def _wait(self, ref: Any, who: str, limit: float) -> Any:
        try:
            return ray.get(ref, timeout=limit)
        except GetTimeoutError:
            free, total = ray.available_resources(), ray.cluster_resources()
            amounts = ", ".join(f"{k} {free.get(k, 0):g} of {total.get(k, 0):g}" for k in ("CPU",))
            raise ResourceError(
                f"{who} died and no other could be started within {limit:g} s (free: {amounts}); "
                "bring the machine back, then train with --resume"
            ) from None
        except ray.exceptions.RayActorError:
            return None  # dead again; the next look finds it
        except ObjectLostError:
            self._copies_lost = True  # the copy that it was to begin with is gone with its machine
            return None
        except Exception as error:
            raise worded(error, who) from None

    def _resend(self, stages: list[Member], done: dict[int, int], anew: bool) -> bool:
        chain = self.chain
        for member in stages:
            step = member.step if member.snapshot is None else None
            member.begin(chain.generation, member.at, step)
        ok = self.resend.send(done, anew, self.config.pipeline.step_timeout_s)
        for member in chain.members.all():
            # Also one that lives: it may have said its state before it was sent this again.
            if member.until is not None:
                chain.members.leaves_again(member)
        if ok:
            self.resend.score_again()
        chain.members.spare.keep()
        return ok

    def _all_back(self, dead: list[_Dead], done: dict[int, int], gone: bool) -> bool:
        """Takes all stages back to the newest checkpoint, or to the beginning."""
        members = self.chain.members
        known = {self.start_step: -1} | dict(self.checkpoints)
        newest = max(known)
        saved = self.saved(newest) if newest > 0 else None
        step = self.start_step if saved is None else saved.step
        if step not in known:
            raise RunError(
                f"copies of the stages are lost, and the newest whole checkpoint (step {step}) is "
                "older than what this run remembers; train with --resume"
            )
        number = known[step]
        states = {} if saved is None else saved.by_number()
        self.say(f"{'a machine' if gone else 'data'} is gone: all stages go back to step {step}")
        alive = [m for m in members.all() if id(m) in done]
        for member in members.all():
            member.snapshot = None
            member.go_on_after(-1)
            member.at = member.first - 1
            if member.at <= number and member.spec.number in states:
                member.origin, member.step = ray.put(states[member.spec.number]), step
                member.at = number
            done[id(member)] = member.at
        stages = [f.member for f in dead if f.member is not None]
        self._renew(stages, [f.who for f in dead])
        self._rebuild(alive)
        return self._resend([*stages, *alive], done, anew=True)
