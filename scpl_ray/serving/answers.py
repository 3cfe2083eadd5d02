"""What the exits said, in the words of the answer."""

from __future__ import annotations

from collections.abc import Sequence

from scpl_ray.serving.schema import Answer, Answers, Exit, Options
from scpl_ray.serving.trail import ExitAnswer, Trail

_SHOWN = 5


def worded(
    run: str, measure: str, options: Options, labels: Sequence[str], trails: list[Trail]
) -> Answers:
    """The answer to a request.

    Args:
        run: name of the run.
        measure: of certainty.
        options: of the request.
        labels: names of the classes.
        trails: the exits that each sample passed.
    """
    return Answers(
        run=run,
        measure=measure,
        threshold=options.threshold,
        early_exit=options.early_exit,
        answers=[_answer(trail, labels) for trail in trails],
    )


def _answer(trail: Trail, labels: Sequence[str]) -> Answer:
    exits = [_exit(exit, labels) for exit in trail]
    last = exits[-1]
    return Answer(label=last.label, probability=last.probability, exit=last.stage, exits=exits)


def _exit(exit: ExitAnswer, labels: Sequence[str]) -> Exit:
    order = sorted(range(len(labels)), key=lambda c: -exit.probabilities[c])[:_SHOWN]
    shown = {labels[c]: round(exit.probabilities[c], 6) for c in order}
    return Exit(
        stage=exit.stage,
        label=labels[order[0]],
        probability=shown[labels[order[0]]],
        certainty=round(exit.certainty, 6),
        answers=exit.answers,
        probabilities=shown,
    )
