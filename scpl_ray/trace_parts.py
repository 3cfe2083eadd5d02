"""What a stage did when, in one step."""

from __future__ import annotations

from scpl_ray.stage_facts import StageStats


def parts_of(stats: StageStats) -> list[tuple[str, float, float]]:
    """What a stage did in one step: (name, begin, end), seconds since 1970, in order."""
    updated_at = stats.finished_at - stats.update_s
    forward_end = stats.begun_at + stats.forward_s
    received_at = stats.begun_at - stats.receive_s
    lost_at = updated_at + stats.loss_s
    learned_at = lost_at + stats.backward_s
    spans = [
        ("snapshot", received_at - stats.snapshot_s, received_at),
        ("receive", received_at, stats.begun_at),
        ("forward", stats.begun_at, forward_end),
        ("send", forward_end, min(forward_end + stats.send_s, updated_at)),
        ("loss", updated_at, lost_at),
        ("backward", lost_at, learned_at),
        ("optimizer", learned_at, stats.finished_at),
    ]
    return [(name, begin, end) for name, begin, end in spans if end > begin]
