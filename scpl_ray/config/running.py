"""How a job runs: its pipeline, changes of its stages, faults, resources and output."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from scpl_ray.config.section import Positive, Section, Share, auto_or


class PipelineConfig(Section):
    """How batches stream through the stages."""

    engine: Literal["ray", "local"] = "ray"
    in_flight: Positive | None = Field(
        None,
        description="calls in flight: the back-pressure window; default: by the stages and the "
        "cores that they share",
    )
    batches_per_call: Literal["auto"] | Positive = Field(
        "auto", description="batches that travel as one; auto: more than one where a step is short"
    )
    activation_dtype: Literal["computed", "bf16"] = Field(
        "computed", description="bf16: what a stage hands on is rounded, and half as much travels"
    )
    transport: Literal["auto", "object_store", "nixl"] = Field(
        "auto",
        description="how activations travel; nixl: directly, without fault_tolerance; auto: that "
        "only where every stage has a GPU and nixl, and fault_tolerance is off",
    )
    prefetch: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="calls whose batches are ready; auto: 8, or 2 where many batches travel as one",
    )
    data_workers: Annotated[int, Field(ge=0)] = Field(
        0,
        description="processes that make training batches; 0: the data process itself. Images "
        "with data.augment or in files may need several",
    )
    step_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    start_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    prepare_timeout_s: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="loading and encoding the data, downloads included"
    )

    @field_validator("batches_per_call", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return auto_or(value, "a number from 1")

    @field_validator("prefetch", mode="before")
    @classmethod
    def _auto_prefetch(cls, value: Any) -> Any:
        return auto_or(value, "a number from 0")

    def window(self, num_stages: int, long_calls: bool = False, at_once: float = math.inf) -> int:
        """Calls in flight at most.

        Args:
            num_stages: stages that train.
            long_calls: each is some tenths of a second of work, so that few suffice: one for each
                stage, and three that wait. The fewer, the sooner a command takes effect.
            at_once: stages that have a core at the same time. Where that is not all, so many long
                calls and two more keep all cores busy; more would only take the cores from each
                other.
        """
        if self.in_flight is not None:
            return self.in_flight
        if not long_calls:
            return max(8, 2 * num_stages + 2)
        return num_stages + 3 if at_once >= num_stages else math.ceil(at_once) + 2

    def ahead(self, long_calls: bool = False) -> int:
        """Calls whose batches are asked for before they are sent."""
        if self.prefetch != "auto":
            return self.prefetch
        return 2 if long_calls else 8

    def coming(self, num_stages: int, long_calls: bool, at_once: float = math.inf) -> int:
        """Calls that are given to each stage until a marker of now is through all of them."""
        return 2 * self.window(num_stages, long_calls, at_once) + self.ahead(long_calls)


class MomentsConfig(Section):
    """Moments of a run; a change at epoch E comes after E epochs, at step S before step S."""

    epoch: list[Positive] = Field(default_factory=list)
    step: list[Positive] = Field(default_factory=list)


class PlateauConfig(Section):
    """The last exit has stopped gaining."""

    epochs: Positive = Field(3, description="epochs without a gain")
    min_delta: Share = Field(0.002, description="the least validation accuracy that is a gain")


class GrowWhenConfig(Section):
    """When a stage is added without being asked for."""

    exit_accuracy_plateau: PlateauConfig = PlateauConfig()
    max_stages: Positive = 8
    if_resources: bool = Field(
        True, description="only where a device is free, or a cluster may add one"
    )


class ElasticConfig(Section):
    """Stages that join and leave while the job runs."""

    start_stages: Positive | None = Field(
        None, description="stages to start with; the later ones join; default: all"
    )
    grow_at: MomentsConfig = MomentsConfig()
    shrink_at: MomentsConfig = MomentsConfig()
    grow_when: GrowWhenConfig | None = None
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        300.0, description="a stage that has not started by then is given up"
    )
    lead_s: Annotated[float, Field(ge=0)] = Field(
        30.0, description="planned growth: start the stage so long before it is due"
    )


class FaultToleranceConfig(Section):
    """What is kept so that a process that dies costs time and nothing else."""

    enabled: bool = Field(True, description="false: keep nothing; a process that dies ends the run")
    snapshot_every_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="seconds between snapshots in memory; default: by their measured cost"
    )
    snapshot_every_steps: Positive | None = Field(
        None, description="steps between snapshots in memory, in place of seconds"
    )
    log_mib: Literal["auto"] | Positive = Field(
        "auto",
        description="inputs kept for a replay, of all stages; when full: an earlier snapshot; "
        "auto, and at most: 30 % of Ray's object store",
    )
    checkpoint_every_s: Annotated[float, Field(gt=0)] | None = Field(
        60.0, description="seconds between checkpoints on storage; null: only by steps, or none"
    )
    checkpoint_every_steps: Positive | None = Field(
        None, description="steps between checkpoints on storage, beside the seconds"
    )
    storage: str | None = Field(
        None,
        description="folder or URI (s3://, gs://, hdfs://) of checkpoints; default: the run's",
    )
    keep: Positive = Field(2, description="checkpoints kept while the run trains")
    max_failures: Annotated[int, Field(ge=0)] | None = Field(
        100, description="dead processes that a run survives in all; null: any number"
    )
    max_failures_per_stage: Annotated[int, Field(ge=0)] | None = Field(
        50, description="of one stage; null: any number"
    )
    max_failures_per_batch: Annotated[int, Field(ge=0)] = Field(
        2, description="of one stage at the same batch; one more ends the run"
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="a loss that is NaN or infinite: stop, or skip the batch and count it"
    )
    standby: bool = Field(
        True, description="CPU stages on a local Ray: keep a started process for a stage that dies"
    )

    @field_validator("log_mib", mode="before")
    @classmethod
    def _auto_log(cls, value: Any) -> Any:
        return auto_or(value, "a number of MiB")


class ResourcesConfig(Section):
    """What each stage holds."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = Field(None, description="CPU threads a stage; default: fair share")
    gpus_per_stage: Annotated[float, Field(gt=0)] | None = None
    device_speeds: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = (
        Field(None, description="stages: auto: relative speeds of unequal devices, in order")
    )
    keep_freed_memory: bool = Field(
        True, description="glibc: keep what was freed instead of giving it back and faulting it in"
    )
    time_slice_ms: Annotated[float, Field(ge=0.1, le=100)] | None = Field(
        100.0,
        description="Linux 6.12 and later: how long a stage keeps a core that other stages wait "
        "for; null: the system's own, some 3 ms",
    )
    compile: bool = Field(
        False, description="torch.compile each layer, one kernel for each shape; slow to start"
    )
    channels_last: bool = Field(False, description="images: NHWC in memory, for convolutions")
    address: str | None = Field(None, description="a Ray cluster; default: RAY_ADDRESS or a local")
    object_store_mib: Annotated[int, Field(ge=80)] | None = None

    @field_validator("gpus_per_stage")
    @classmethod
    def _whole_or_fraction(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("a number above 1 must be whole: Ray gives whole GPUs or a share of 1")
        return value


class OutputConfig(Section):
    """What a run writes."""

    dir: str = "runs"
    tensorboard: bool = True
    trace: bool = Field(False, description="a timeline of every stage: trace.json and trace.png")
    prometheus: Literal["auto"] | bool = Field(
        "auto", description="figures through Ray's metrics; auto: where Ray is a cluster"
    )
    report_every_s: Annotated[float, Field(gt=0)] = Field(
        5.0, description="seconds between two reports to callbacks and Prometheus"
    )
