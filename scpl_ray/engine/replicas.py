"""What the replicas of a stage are asked to do for one piece of work."""

from __future__ import annotations

from scpl_ray import schedule
from scpl_ray.engine.calls import Asked, Piece, ask
from scpl_ray.engine.fence import Ticket
from scpl_ray.engine.member import Member
from scpl_ray.rounds import ends_round


def ask_replicas(
    member: Member,
    ticket: Ticket,
    work: schedule.Work,
    given: Piece | None,
    ends: bool,
    last: bool,
    steps_per_epoch: int,
) -> Asked:
    """Gives a stage with replicas its next work; does not wait.

    Batches of a round go to one replica after the other. Evaluation takes turns too; snapshots
    are the first one's. All replicas end each round, and each other piece of work, at the same
    place.

    Args:
        member: the stage.
        ticket: leave for it, after the work that all replicas were sent last.
        work: what to do.
        given: the input; None for work without.
        ends: nobody reads what is handed on in evaluation.
        last: nobody reads what is handed on in training.
        steps_per_epoch: training steps of an epoch.
    """
    actors = member.actors
    if isinstance(work, schedule.Train):
        return _train(member, ticket, work, given, last, steps_per_epoch)
    turn = work.index % len(actors) if isinstance(work, schedule.Evaluate) else 0
    everyone = isinstance(work, schedule.Stash | schedule.Restore)
    for i, actor in enumerate(actors):
        if i != turn and everyone:
            ask(actor, ticket, [work], given, ends, last)
        elif i != turn:
            actor.pass_over.remote(ticket)
    member.settled = ticket.number
    return ask(actors[turn], ticket, [work], given, ends, last)[0]


def _train(
    member: Member,
    ticket: Ticket,
    work: schedule.Train,
    given: Piece | None,
    last: bool,
    steps_per_epoch: int,
) -> Asked:
    assert given is not None
    actors, place = member.actors, len(member.round)
    actor = actors[place]
    output = actor.forward_one.remote(ticket, work, given.ref, given.index, last)
    share, answer = actor.share.remote(ticket, work, place)
    member.round.append(share)
    if ends_round(work.step, len(actors), steps_per_epoch):
        learned = [each.learn.remote(ticket, *member.round) for each in actors]
        answer = actor.report.remote(answer, *learned)
        member.round, member.settled = [], ticket.number
    return Asked(None if last else Piece(output), Piece(answer))
