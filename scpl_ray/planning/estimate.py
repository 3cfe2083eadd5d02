"""Layer costs estimated for a device that is not here, from FLOPs and bytes. Needs torch.

The roofline (Williams, Waterman & Patterson 2009): work takes the longer of its FLOPs over the
FLOP/s, and its bytes over the memory bandwidth, that are assumed to be reached (`devices`). Each of
the two gradients takes as many FLOPs as the forward. Adam reads parameter, gradient and two moments
and writes three of them: 7 x the parameters' bytes; SGD with momentum 5 x; plain SGD 3 x.

Not modelled: kernel launches and Python, which bound the step where layers are small.
"""

from __future__ import annotations

from scpl_ray.config.schema import Config
from scpl_ray.data.batch import Batch, DataInfo
from scpl_ray.models.activation import from_batch
from scpl_ray.models.registry import build_model
from scpl_ray.planning.costs import Costs, LayerCost
from scpl_ray.planning.devices import Device
from scpl_ray.planning.layer_facts import MIB, Facts, activation_mib, look
from scpl_ray.planning.memory import optimizer_states
from scpl_ray.profiling import layer_stage


def estimate(config: Config, info: DataInfo, batch: Batch, device: Device) -> Costs:
    """Estimates every layer; one real batch runs forward on this machine's CPU to be counted.

    Args:
        config: `model`, `local`, `optimizer` and `train.precision` are read.
        info: what the data is.
        batch: a real training batch.
        device: where it would run.
    """
    model = build_model(config, info)
    given, labels = from_batch(batch)
    input_mib, layers = activation_mib(given), []
    for i, name in enumerate(model.names):
        stage = layer_stage(config, info, (name,), i + 1 == len(model.names))
        facts = look(stage, config, given, labels)
        layers.append(layer_cost(name, facts, config, device, activation_mib(given)))
        given = facts.output
    source = f"estimated for {device.name} from FLOPs and published peaks"
    return Costs(tuple(layers), source, can_repeat(config, model.more), True, input_mib)


def can_repeat(config: Config, more: object) -> bool:
    """Whether a network goes on: kinds of scpl-ray do; a factory's if it says how."""
    return not config.model.factory or more is not None


def layer_cost(
    name: str, facts: Facts, config: Config, device: Device, input_mib: float
) -> LayerCost:
    """One layer, by the roofline."""
    states = optimizer_states(config.optimizer.name, config.optimizer.momentum)
    rate = device.flops(config.train.precision)

    def seconds(flops: float, mib: float) -> float:
        return max(flops / rate, mib * MIB / device.bytes_s)

    def step(params_mib: float) -> float:
        return seconds(0.0, (3 + 2 * states) * params_mib)

    out_mib = activation_mib(facts.output)
    # An embedding reads the rows of its batch only; a product reads all of its weights.
    read = facts.params_mib if facts.flops else 0.0
    forward = seconds(facts.flops, input_mib + facts.saved_mib + out_mib + read)
    weights = seconds(facts.flops, facts.saved_mib + out_mib + facts.params_mib)
    inputs = seconds(facts.flops, input_mib + out_mib + read)
    head = 3 * seconds(facts.head_flops, facts.head_params_mib)
    optimizer = step(facts.params_mib)
    return LayerCost(
        name=name,
        forward_s=forward,
        update_s=weights + optimizer,
        head_s=head + step(facts.head_params_mib),
        params_mib=facts.params_mib,
        activation_mib=out_mib,
        saved_mib=facts.saved_mib,
        flops=facts.flops,
        input_grad_s=inputs,
        optimizer_s=optimizer,
        backward_s=weights + inputs,
        head_params_mib=facts.head_params_mib,
    )
