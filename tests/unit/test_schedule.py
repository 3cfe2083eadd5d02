from __future__ import annotations

from scpl_ray.schedule import Evaluate, Stash, Train, evaluation, training


def test_training_with_validation_and_stash() -> None:
    assert list(training(2, 3, 2, True)) == [
        Train(0, 0),
        Train(1, 0),
        Train(2, 0),
        Evaluate("validation", 0, 0, False),
        Evaluate("validation", 0, 1, True),
        Stash(0),
        Train(3, 1),
        Train(4, 1),
        Train(5, 1),
        Evaluate("validation", 1, 0, False),
        Evaluate("validation", 1, 1, True),
        Stash(1),
    ]


def test_training_alone() -> None:
    assert list(training(2, 2, 0, False)) == [Train(0, 0), Train(1, 0), Train(2, 1), Train(3, 1)]


def test_evaluation() -> None:
    assert list(evaluation("test", 4, 2, limit=100)) == [
        Evaluate("test", 4, 0, False, 100),
        Evaluate("test", 4, 1, True, 100),
    ]
    assert list(evaluation("test", 0, 1)) == [Evaluate("test", 0, 0, True, None)]
    assert list(evaluation("test", 0, 0)) == []
