from __future__ import annotations

import pytest

from scpl_ray.engine.base import Ask
from scpl_ray.engine.placement import Placement, place_one

CPU = Placement("cpu", 1.0, 0.0, "3 stages on CPU")
GPU = Placement("cuda", 0.5, 0.25, "3 stages on GPU")
SHARES = "no core is free: it shares those of the other stages"


@pytest.mark.parametrize(
    ("like", "ask", "free", "private", "wanted"),
    [
        (CPU, Ask(), {"CPU": 4.0}, True, Placement("cpu", 1.0, 0.0, "")),
        (CPU, Ask(), {"CPU": 1.0}, True, Placement("cpu", 1.0, 0.0, "")),
        (CPU, Ask(), {"CPU": 0.99}, True, Placement("cpu", 0.0, 0.0, SHARES)),
        (CPU, Ask(), {}, True, Placement("cpu", 0.0, 0.0, SHARES)),
        # On a cluster it waits for a core: an autoscaler sees it.
        (CPU, Ask(), {}, False, Placement("cpu", 1.0, 0.0, "")),
        # Who asks for cores waits for them.
        (CPU, Ask(num_cpus=2.0), {}, True, Placement("cpu", 2.0, 0.0, "")),
        (CPU, Ask(num_cpus=0.0), {"CPU": 4.0}, True, Placement("cpu", 0.0, 0.0, "")),
        (CPU, Ask(num_gpus=1.0), {"CPU": 4.0}, True, Placement("cuda", 1.0, 1.0, "")),
        (CPU, Ask(num_gpus=1.0), {}, True, Placement("cuda", 0.0, 1.0, SHARES)),
        (GPU, Ask(), {"CPU": 4.0, "GPU": 0.0}, True, Placement("cuda", 0.5, 0.25, "")),
        (GPU, Ask(), {"CPU": 0.5}, False, Placement("cuda", 0.5, 0.25, "")),
        (GPU, Ask(num_gpus=0.0), {"CPU": 4.0}, True, Placement("cpu", 0.5, 0.0, "")),
        (GPU, Ask(2.0, 0.5), {}, False, Placement("cuda", 2.0, 0.5, "")),
    ],
)
def test_place_one(
    like: Placement, ask: Ask, free: dict[str, float], private: bool, wanted: Placement
) -> None:
    assert place_one(like, ask, free, private) == wanted
