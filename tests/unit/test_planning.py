"""The simulations, against what can be worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from scpl_ray.cli.plan import command as plan_command
from scpl_ray.config import load_config
from scpl_ray.config.running import PipelineConfig
from scpl_ray.errors import ConfigError
from scpl_ray.planning import baselines, links, memory, simulation
from scpl_ray.planning.plan import batches_per_call
from tests.unit.tools import config as tree

# --- the schedule, in parts ----------------------------------------------------------------------

SAME = [simulation.StageTimes(0.03, 0.07, output_mib=2.0)] * 4


def streamed(
    stages: list[simulation.StageTimes] = SAME, window: int = 20, **more: Any
) -> simulation.Simulated:
    link = more.pop("link", links.FREE)
    calls = more.pop("calls", None)
    return simulation.simulate(stages, simulation.Schedule(window, **more), link, calls)


def test_step_is_the_slowest_stage() -> None:
    found = streamed()
    assert found.step_s == pytest.approx(0.1)
    assert found.fill_s == pytest.approx(3 * 0.03)
    assert found.makespan_s == pytest.approx(3 * 0.03 + 0.1 * found.calls)
    assert found.busy == pytest.approx([1.0] * 4) and found.idle == pytest.approx([0.0] * 4)
    slow = [*SAME[:2], simulation.StageTimes(0.1, 0.3), SAME[3]]
    found = streamed(slow)
    assert found.step_s == pytest.approx(0.4)
    assert found.busy == pytest.approx([0.25, 0.25, 1.0, 0.25])


@pytest.mark.parametrize("costs", [(1, 1, 1, 1), (4, 1, 1, 2), (1, 2, 3, 1), (1, 1, 1, 5)])
def test_two_calls_more_than_cores_keep_all_cores_busy(costs: tuple[int, ...]) -> None:
    window = PipelineConfig().window(len(costs), True, at_once=2)
    stages = [simulation.StageTimes(0.03 * cost, 0.07 * cost) for cost in costs]
    limit = max(*costs, sum(costs) / 2) * 0.1
    assert window == 4
    assert streamed(stages, window, per_call=8, cores=2).step_s == pytest.approx(limit, rel=0.03)


def test_the_plan_takes_calls_as_the_engine_does() -> None:
    """Stages of 100 ms: a second is nearest to 8; on two cores a step is 200 ms, and two to 8."""
    assert batches_per_call(tree(), SAME, 0.1) == 8
    assert batches_per_call(tree(), SAME, 0.1, at_once=2) == 8
    assert batches_per_call(tree(), [*SAME, *SAME], 0.1, at_once=2) == 4
    assert batches_per_call(tree(), SAME, 0.1, at_once=3) == 8


def test_window_of_one_is_one_call_after_another() -> None:
    # A call of one batch: the next is sent when the last stage's update ends, the last of all.
    assert streamed(window=1).step_s == pytest.approx(3 * 0.03 + 0.1)
    # A call of many is handed on when all of it is done: the sum of all stages.
    assert streamed(window=1, per_call=4).step_s == pytest.approx(4 * 0.1)
    # The oldest must be finished by all: a long update of stage 1 holds the next call as well.
    long = [simulation.StageTimes(0.01, 1.0), simulation.StageTimes(0.01, 0.01)]
    assert streamed(long, window=1).step_s == pytest.approx(1.01)


def test_stages_that_share_cores_take_all_of_their_time() -> None:
    assert streamed(cores=2).step_s == pytest.approx(4 * 0.1 / 2, rel=0.01)
    assert streamed(cores=1).step_s == pytest.approx(4 * 0.1, rel=0.01)
    assert streamed(cores=4).step_s == pytest.approx(0.1)
    # Sharing does not slow down a stage that others wait for less than their own work.
    uneven = [simulation.StageTimes(0.3, 0.7), *[simulation.StageTimes(0.01, 0.01)] * 2]
    assert streamed(uneven, cores=2).step_s == pytest.approx(1.0, rel=0.03)


def test_calls_of_many_batches_fill_longer_and_cost_less() -> None:
    one, many = streamed(call_s=0.02), streamed(call_s=0.02, per_call=8)
    assert one.step_s == pytest.approx(0.12)
    assert many.step_s == pytest.approx(0.1 + 0.02 / 8)
    assert many.fill_s == pytest.approx(3 * (0.8 + 0.02)) and many.fill_s > 5 * one.fill_s


def test_transport_counts_where_it_is_done() -> None:
    own = [simulation.StageTimes(0.03, 0.05, receive_s=0.01, send_s=0.01)] * 3
    found = streamed(own)
    assert found.step_s == pytest.approx(0.1)
    assert found.fill_s == pytest.approx(2 * 0.05)  # received, computed and sent, twice


def test_a_slow_link_is_the_step() -> None:
    mib_s = 2**20
    assert streamed(link=links.Link(0.0, 10 * mib_s)).step_s == pytest.approx(0.2)
    late = streamed(link=links.Link(0.01))
    assert late.step_s == pytest.approx(0.1), "latency hides behind the window"
    assert late.fill_s == pytest.approx(3 * 0.04)
    slow = links.Link(0.0, 8 * mib_s)
    assert streamed(link=[links.FREE, slow, links.FREE]).step_s == pytest.approx(0.25)
    assert streamed().moved_mib == [2.0, 2.0, 2.0]


def test_slow_data_is_the_step() -> None:
    assert streamed(data_s=0.15).step_s == pytest.approx(0.15)
    assert streamed(data_s=0.05).step_s == pytest.approx(0.1)
    assert streamed(data_s=0.1, cores=2).step_s == pytest.approx(0.5 / 2, rel=0.02)


def test_the_driver_takes_cores_by_the_call() -> None:
    """Four stages of 0.1 s and 0.4 s of the driver, for a call of four batches, on two cores."""
    shared = streamed(driver_s=0.4, per_call=4, cores=2)
    assert shared.step_s == pytest.approx((4 * 0.1 + 0.4 / 4) / 2, rel=0.02)
    assert streamed(driver_s=0.4, per_call=4).step_s == pytest.approx(0.1, rel=0.02)
    assert streamed(driver_s=0.4).step_s == pytest.approx(0.4, rel=0.02), "one at a time"


def test_what_is_held_before_a_stage() -> None:
    # All stages as fast: each output is taken up at once, and one waits behind it.
    assert max(streamed(window=8).held[1:]) <= 2
    # Before a slow stage the window piles up, before the others nothing does.
    piled = streamed([SAME[0], simulation.StageTimes(1.0, 1.0), SAME[0]], window=6).held
    assert piled[1] in (5, 6) and piled[2] == 1
    assert max(streamed(window=3).held) <= 3


def test_many_stages_and_wrong_arguments() -> None:
    assert streamed(SAME * 16, window=130).step_s == pytest.approx(0.1)
    assert streamed(SAME[:1]).step_s == pytest.approx(0.1)
    for wrong in (
        lambda: streamed([]),
        lambda: streamed(window=0),
        lambda: streamed(link=[links.FREE]),
        lambda: streamed(calls=1),
    ):
        with pytest.raises(ValueError):
            wrong()


# --- end-to-end backpropagation -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", [1, 4, 8])
@pytest.mark.parametrize("micro", [1, 2, 8, 32])
def test_bubble_is_that_of_the_papers(kind: str, stages: int, micro: int) -> None:
    found = baselines.pipelined(kind, [baselines.StagePass(0.1, 0.2)] * stages, micro)
    assert found.step_s == pytest.approx(0.3 * (micro + stages - 1) / micro)
    assert found.bubble == pytest.approx((stages - 1) / (micro + stages - 1))


def test_1f1b_is_as_fast_as_gpipe_with_less_memory() -> None:
    stages = [baselines.StagePass(0.1, 0.2, saved_mib=64.0)] * 4
    gpipe, other = (baselines.pipelined(kind, stages, 16) for kind in ("gpipe", "1f1b"))
    assert other.step_s == pytest.approx(gpipe.step_s)
    assert gpipe.saved_mib == pytest.approx([64.0] * 4)
    assert other.saved_mib == pytest.approx([16.0, 12.0, 8.0, 4.0])


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_zero_bubble_is_that_of_the_paper(stages: int) -> None:
    # ZB-H1, table 1 of the paper: a bubble of (p - 1)(F + B - W), the memory of 1F1B's first stage.
    micro = 4 * stages
    rows = [baselines.StagePass(0.1, 0.2, saved_mib=float(micro))] * stages
    found = baselines.pipelined("zb_h1", rows, micro)
    assert found.step_s == pytest.approx(0.3 + (stages - 1) * 0.1 / micro)
    assert found.bubble < baselines.pipelined("1f1b", rows, micro).bubble
    assert max(found.saved_mib) <= stages


def test_baselines_with_links_optimizer_and_the_best_micro_batches() -> None:
    rows = [baselines.StagePass(0.1, 0.2, 0.05, output_mib=1.0)] * 2
    link = links.Link(0.0, 10 * 2**20)  # 0.1 s for a whole activation, and back for its gradient
    assert baselines.pipelined("gpipe", rows, 1, link).step_s == pytest.approx(0.6 + 0.2 + 0.05)
    late = links.Link(0.05)
    best = baselines.best_pipelined("1f1b", rows, 64, late)
    tried = [baselines.pipelined("1f1b", rows, 2**i, late).step_s for i in range(7)]
    assert best.step_s == min(tried) and best.micro_batches == 2 ** tried.index(min(tried))
    whole = baselines.one_device(rows)
    assert whole.step_s == pytest.approx(0.7) and whole.bubble == 0
    with pytest.raises(ValueError, match="gpipe, 1f1b, zb_h1"):
        baselines.pipelined("1fb1", rows, 1)


# --- links, devices, memory -----------------------------------------------------------------------


def test_links_as_a_user_writes_them() -> None:
    assert links.parse_rate("400Gb/s") == pytest.approx(50e9)
    assert links.parse_rate("10 Gbit/s") == pytest.approx(1.25e9)
    assert links.parse_rate("25GB/s") == pytest.approx(25e9)
    assert links.parse_rate("1GiB/s") == pytest.approx(2**30)
    assert links.parse_rate("100Mbps") == pytest.approx(12.5e6)
    assert links.parse_latency("20us") == pytest.approx(2e-5)
    assert links.Link(1e-3, 2**20).seconds(2.0) == pytest.approx(2.001)
    for wrong in ("400", "fast", "-1Gb/s", "0Gb/s", "4Gb"):
        with pytest.raises(ConfigError, match="400Gb/s"):
            links.parse_rate(wrong)
    with pytest.raises(ConfigError, match="20us"):
        links.parse_latency("20")


def layer(number: int, **more: Any) -> dict[str, Any]:
    sizes = {"params_mib": 10.0, "activation_mib": 1.0, "saved_mib": 5.0, "head_params_mib": 2.0}
    return (
        {"name": f"l{number}", "forward_s": 0.03, "update_s": 0.06, "head_s": 0.01} | sizes | more
    )


def costs_file(tmp_path: Path, count: int = 4, **more: Any) -> str:
    path = tmp_path / "costs.yaml"
    rows = {"layers": [layer(i) for i in range(count)], "input_mib": 3.0} | more
    path.write_text(yaml.safe_dump(rows))
    return str(path)


def test_memory_of_a_stage_and_of_those_behind_it(tmp_path: Path) -> None:
    from scpl_ray.planning.costs import longer, read_costs

    costs = read_costs(costs_file(tmp_path))
    first = memory.stage_memory(costs, 0, 0, 2)
    assert dataclasses.astuple(first) == (12.0, 12.0, 24.0, 5.0, 4.0) and first.total == 57.0
    assert memory.stage_memory(longer(costs, 64), 0, 0, 2) == first
    assert memory.stage_memory(costs, 2, 3, 0).total == 22 + 22 + 10 + 1
    whole = memory.backprop_memory(costs, 0, 3, 1, 20.0)
    assert whole.total == 3 * 42 + 20 + 3
    assert [memory.optimizer_states(n, 0.9) for n in ("adam", "adamw", "sgd")] == [2, 2, 1]
    assert memory.optimizer_states("sgd", 0.0) == 0


def test_cost_of_a_stage(tmp_path: Path) -> None:
    from scpl_ray.planning.costs import read_costs

    rows = [layer(i, input_grad_s=0.02) for i in range(3)]
    costs = read_costs(costs_file(tmp_path, layers=rows))
    assert costs.stage_seconds(0, 0) == pytest.approx(0.1)
    assert costs.stage_seconds(0, 2) == pytest.approx(3 * 0.09 + 2 * 0.02 + 0.01)
    assert costs.stage_times(1, 2).output_mib == 0 and costs.stage_times(0, 1).output_mib == 1
    assert costs.layers[0].full_backward_s == pytest.approx(0.06)


def test_estimates_count_what_a_network_does() -> None:
    pytest.importorskip("torch")
    from scpl_ray.bench.model import DEFAULT
    from scpl_ray.engine.data import load_data
    from scpl_ray.planning.devices import DEVICES
    from scpl_ray.planning.estimate import estimate

    options = {"layers": 2, "width": 32, "depth": 1}
    model = {"factory": "scpl_ray.bench.model:build", "options": options}
    config = load_config(DEFAULT | {"model": model, "train": {"batch_size": 16}})
    loader, ready = load_data(config)
    batch = loader.train_batch(0)
    costs = estimate(config, ready.info, batch, DEVICES["a100"])
    pixels = math.prod(ready.info.image_shape)
    assert [c.flops for c in costs.layers] == [2 * 16 * (pixels * 32 + 32 * 32), 2 * 16 * 32 * 32]
    assert costs.layers[1].params_mib * 2**20 == 4 * (32 * 32 + 32)
    assert costs.layers[1].activation_mib * 2**20 == 4 * 16 * 32
    # Kept: the input of the product, and the output of ReLU.
    assert costs.layers[1].saved_mib * 2**20 == 2 * 4 * 16 * 32
    assert costs.repeats and costs.estimated
    slow = estimate(config, ready.info, batch, DEVICES["cpu"])
    assert all(b.forward_s > a.forward_s for a, b in zip(costs.layers, slow.layers, strict=True))


# --- the command ----------------------------------------------------------------------------------


def call(*args: str) -> Result:
    return CliRunner().invoke(plan_command, list(args))


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "try.yaml"
    path.write_text("data: {source: digits}\nmodel: {kind: convnet}\noptimizer: {name: adam}\n")
    return str(path)


def test_the_command_on_given_costs(config: str, tmp_path: Path) -> None:
    given = costs_file(tmp_path, 8)
    wish = ["--costs", given, "--stages", "4", "--samples", "6400", "--price-per-hour", "3.6"]
    none = ("--call-overhead", "0s", "--batch-overhead", "0s")
    done = call(config, *wish, *none, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["cut"] == [2, 2, 2, 2]
    assert found["step_s"] == pytest.approx(0.19) and found["efficiency"] == pytest.approx(1.0)
    assert found["steps_per_epoch"] == 100
    ways = {way["kind"]: way for way in found["ways"]}
    assert list(ways) == ["scpl", "bp", "gpipe", "1f1b", "zb_h1"]
    assert ways["bp"]["step_s"] == pytest.approx(8 * 0.09 + 0.01)
    assert ways["scpl"]["epoch_cost"] == pytest.approx(19.0 / 3600 * 3.6 * 4)
    assert ways["bp"]["memory_mib"] == pytest.approx(4 * 82 + 40 + 3)
    assert ways["zb_h1"]["step_s"] <= ways["1f1b"]["step_s"]
    # What it printed can be given again.
    again = tmp_path / "again.json"
    again.write_text(done.output)
    second = call(config, "--costs", str(again), "--stages", "4", "--json")
    assert second.exit_code == 0, second.output
    assert json.loads(second.output)["cut"] == [2, 2, 2, 2]


def test_the_command_in_words(config: str, tmp_path: Path) -> None:
    done = call(config, "--costs", costs_file(tmp_path), "--stages", "64", "--link", "400Gb/s")
    assert done.exit_code == 0, done.output
    assert "repeated 60 times" in done.output and "zero overhead" not in done.output
    assert "48 more" in done.output and "ZB-H1" in done.output
    shared = call(
        config, "--costs", costs_file(tmp_path), "--stages", "4", "--cores", "2", "--json"
    )
    step = json.loads(shared.output)["step_s"]
    assert step == pytest.approx(4 * (0.1 + 0.002 / 4) / 2, rel=0.02)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--device", "h10"], "Did you mean 'h100'?"),
        (["--link", "fast"], "400Gb/s"),
        (["--latency", "soon"], "20us"),
        (["--costs", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_a_user_can_mend(config: str, args: list[str], said: str) -> None:
    done = call(config, *args)
    assert isinstance(done.exception, ConfigError) and done.exception.exit_code == 2
    assert said in str(done.exception)


@pytest.mark.parametrize("more", [["--device", "h100"], ["--costs", "a.yaml"]])
def test_what_excludes_one_another(config: str, more: list[str]) -> None:
    for flag in ("--profile", "--check"):
        assert call(config, flag, *more).exit_code == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"layers": []}, "list of layers"),
        ({"layer": [layer(1)]}, "Did you mean 'layers'?"),
        ({"layers": [{"forward_s": 1, "update": 1}]}, "Did you mean 'update_s'?"),
        ({"layers": [{"forward_s": 1}]}, "update_s is missing"),
        ({"layers": [layer(1, forward_s="much")]}, "layers[1].forward_s: 'much'"),
        ({"layers": [layer(1, head_s=-1)]}, "layers[1].head_s: -1"),
        ({"layers": [layer(1)], "repeats": 1}, "repeats: 1 is not true or false"),
        ({"layers": [layer(1)], "data_s": True}, "data_s: True"),
        ("{", "neither JSON nor YAML"),
    ],
)
def test_a_wrong_file_of_costs(config: str, tmp_path: Path, rows: Any, said: str) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    done = call(config, "--costs", str(path))
    assert isinstance(done.exception, ConfigError), done.output
    assert said in str(done.exception) and str(path) in str(done.exception)


def test_a_model_that_does_not_go_on(config: str, tmp_path: Path) -> None:
    done = call(config, "--costs", costs_file(tmp_path, repeats=False), "--stages", "5")
    assert isinstance(done.exception, ConfigError) and "allowed: 1 to 4" in str(done.exception)


def test_stages_that_wait_for_each_other_are_refused(config: str, tmp_path: Path) -> None:
    done = call(config, "method=bp", "--costs", costs_file(tmp_path))
    assert isinstance(done.exception, ConfigError) and "method=scpl" in str(done.exception)


def test_the_profile_and_the_check(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are measured in a process of their own; the real pipeline is not run here."""
    from scpl_ray.bench import pipeline

    asked: list[Any] = []

    class Found:
        step_ms = 10.0

    def stream(config: Any, steps: int, repeats: int) -> tuple[list[Found], list[float]]:
        asked.append(config)
        return [Found()], []

    monkeypatch.setattr(pipeline, "stream", stream)
    tiny = ["model.channels=[4, 8, 8]", "data.limit=200", "resources.threads=1"]
    done = call(config, *tiny, "--stages", "2", "--check", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert asked[0].stages == found["cut"] and sum(found["cut"]) == 3
    assert found["check"]["measured_ms"] == 10.0
    predicted = 1000 * found["step_s"]
    assert found["check"]["difference_percent"] == pytest.approx(10 * predicted - 100)
    layers = found["costs"]["layers"]
    assert all(one["forward_s"] > 0 and one["saved_mib"] > 0 for one in layers)
    assert not found["costs"]["estimated"] and found["steps_per_epoch"] == 4
