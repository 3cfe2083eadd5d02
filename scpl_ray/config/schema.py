"""The typed, frozen configuration of a run: every key, its default, and its bounds.

Here is what is learned; how the job runs is in `running`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from scpl_ray.config.running import (
    ElasticConfig,
    FaultToleranceConfig,
    OutputConfig,
    PipelineConfig,
    ResourcesConfig,
)
from scpl_ray.config.section import Positive, Section, Share, auto_or
from scpl_ray.objectives import METHODS, OWN, problem
from scpl_ray.rounds import Rounds

HeadKind = Literal["linear", "mlp", "mlp_bn"]


class DataConfig(Section):
    """Where batches come from."""

    source: str = Field(
        "movie_snippets", description="a registered source; or 'file', 'folder' (of images)"
    )
    path: str | None = Field(
        None,
        description="CSV/JSONL/Parquet file or saved dataset folder; folder of images; where the "
        "files of cifar10, cifar100 or tiny_imagenet lie",
    )
    test_path: str | None = Field(None, description="the test split, if it is a file of its own")
    text_column: str = "text"
    label_column: str = "label"
    offline: str = Field("none", description="what to train on where the Hub cannot be reached")
    offline_timeout_s: Annotated[float, Field(gt=0, le=60)] = 4.0
    validation: Share = Field(0.1, description="share of training held out, if the source has none")
    test: Share = Field(0.2, description="share held out for testing, if the source has none")
    pool: bool = Field(False, description="join the source's train and test, cut anew by `test`")
    max_len: Positive = Field(128, description="tokens kept of each text")
    vocab_size: Annotated[int, Field(ge=3)] = 30_000
    stop_words: Literal["none", "english"] = "none"
    lowercase: bool = True
    limit: Positive | None = Field(None, description="use only so many samples of each split")
    label_noise: Share = Field(
        0.0, description="share of training labels replaced by a uniform draw over all classes"
    )
    augment: Literal["none", "weak", "strong", "two_views"] = Field(
        "none",
        description="training images: crop and flip; these and colours; both views in the batch, "
        "which doubles",
    )
    image_size: Annotated[int, Field(ge=4)] | None = Field(
        None,
        description="side that images are brought to; default: as they are (tiny_imagenet: 32)",
    )
    pixel_mean: list[float] | None = Field(
        None, description="of each channel, 0 to 1; default: the set's own"
    )
    pixel_std: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="of each channel, as `pixel_mean`"
    )
    cache_dir: str | None = Field(
        None, description="default: SCPL_RAY_CACHE, or the system's place for caches"
    )


class GrownLayers(Section):
    """Layers beyond the config's own that joined a running job; written by scpl-ray."""

    layers: Positive = 1
    change: dict[str, Any] = Field(
        default_factory=dict, description="keys of `model` that differ in these layers"
    )


class ModelConfig(Section):
    """Which network; `layers` counts the repeated layers after the first one."""

    kind: str = Field(
        "transformer",
        description="text: transformer, lstm; images: convnet, vgg8, resnet18, vanillacnn; either: "
        "huggingface",
    )
    factory: str | None = Field(None, description="module:function that returns the layers")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of the factory; huggingface: keys of the network's configuration "
        "that differ, or without `path` all of it, from model_type on",
    )
    path: str | None = Field(None, description="huggingface: a local folder or a Hub id")
    pretrained: bool = Field(
        True, description="huggingface: take the weights at `path` too; false: new ones"
    )
    layers: Positive = 2
    width: Positive = 128
    heads: Positive = 4
    ffn: Positive | None = Field(None, description="feed-forward width; default: `width`")
    dropout: Share = 0.1
    embedding_dropout: Share | None = Field(None, description="default: `dropout`")
    embedding_width: Positive | None = Field(None, description="default: `width`")
    positional: Literal["learned", "sinusoidal", "none"] = "learned"
    word_vectors: str | None = Field(None, description="GloVe or fastText text file")
    channels: Annotated[list[Positive], Field(min_length=1)] | None = Field(
        None,
        description="widths of an image network. convnet: one for each layer, default 32, 64, 128; "
        "vgg8 six, resnet18 four, vanillacnn eight: default as published",
    )
    activation: Literal["relu", "leaky_relu"] = Field(
        "relu", description="of image networks (the authors' ResNet18 has leaky_relu)"
    )
    mean_over: Literal["tokens", "padded"] = Field(
        "tokens", description="average over real tokens, or over padding too (the authors' code)"
    )
    grown: list[GrownLayers] = Field(
        default_factory=list, description="layers that joined a running job, in order"
    )
    init_from: str | None = Field(
        None, description="a run whose weights (and vocabulary) to start from, by layer name"
    )


class ProjectionHeadConfig(Section):
    """The head before the contrastive loss."""

    kind: Literal["identity", "linear", "mlp", "mlp_bn", "simsiam"] = "mlp"
    hidden: Positive | None = Field(None, description="text: stage width; images: 512")
    out: Positive | None = Field(None, description="text: stage width; images: 1024")


class ExitHeadConfig(Section):
    """The local classifier."""

    kind: HeadKind = "mlp"
    hidden: Positive | None = Field(None, description="default: text: stage width; images: 512")
    detach: bool = Field(True, description="false: its gradient also trains the stage")


class AssociatedConfig(Section):
    """Method `al`: associated learning."""

    width: Positive | None = Field(None, description="of the code; text: stage width; images: 500")
    detach_target: bool = Field(
        False, description="true: the label's code does not move towards the feature"
    )
    reconstruction: Literal["mse", "cross_entropy"] = Field(
        "mse", description="of the label from its code; cross_entropy: exits give probabilities"
    )


class SimilarityConfig(Section):
    """Method `sim_pred`: similarity matching and prediction."""

    beta: Annotated[float, Field(ge=0, le=1)] = Field(
        0.99, description="weight of similarity matching; the prediction has 1 - beta"
    )


class DeInfoRegConfig(Section):
    """Method `deinforeg`: weights of its parts."""

    variance: Annotated[float, Field(ge=0)] = 1.0
    invariance: Annotated[float, Field(ge=0)] = 1.0
    covariance: Annotated[float, Field(ge=0)] = 1.0


class LocalConfig(Section):
    """The local objective of each stage."""

    temperature: Annotated[float, Field(ge=1e-4, le=100)] = 0.1
    normalization: Literal["authors", "standard"] = "authors"
    contrastive_weight: Annotated[float, Field(ge=0)] = 1.0
    prediction_weight: Annotated[float, Field(ge=0)] = 1.0
    projection_head: ProjectionHeadConfig = ProjectionHeadConfig()
    exit_head: ExitHeadConfig = ExitHeadConfig()
    pool: Positive | None = Field(None, description="feature maps: average to pool x pool first")
    associated: AssociatedConfig = AssociatedConfig()
    similarity: SimilarityConfig = SimilarityConfig()
    deinforeg: DeInfoRegConfig = DeInfoRegConfig()
    options: dict[str, Any] = Field(
        default_factory=dict, description="what a method of your own reads"
    )


class OptimizerOverride(Section):
    """What one stage sets differently."""

    lr: Annotated[float, Field(gt=0)] | None = None
    end_lr: Annotated[float, Field(ge=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class OptimizerConfig(Section):
    """One optimizer and schedule per stage."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    momentum: Share = 0.9
    fused: bool = Field(True, description="one kernel for a whole step; false: torch's for-each")
    schedule: Literal["constant", "cosine"] = "constant"
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    schedule_every: Literal["step", "epoch"] = "step"
    stages: dict[Positive, OptimizerOverride] = Field(
        default_factory=dict, description="overrides by stage number, from 1"
    )


class TrainConfig(Section):
    """How long, in which batches, with which arithmetic."""

    epochs: Positive = 4
    batch_size: Positive = 64
    drop_last: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    select: Literal["last", "best"] = Field(
        "last", description="keep the last epoch, or the best on the validation split"
    )


class EvaluateConfig(Section):
    """How the splits are evaluated."""

    batch_size: Positive = 256
    train_samples: Positive = Field(10_000, description="training samples of the final report")


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "run"
    method: str = Field(
        "dascpl",
        description="the local objective: a name, or module:Class of your own",
        json_schema_extra={"anyOf": [{"enum": list(METHODS)}, {"pattern": OWN}]},
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    stages: Literal["auto"] | Positive | Annotated[list[Positive], Field(min_length=1)] | None = (
        Field(
            None,
            description="layers of each stage, a number of stages of as many layers, or auto: cut "
            "by measured time; default: one a layer",
        )
    )
    replicas: Literal["auto"] | dict[Positive, Positive] = Field(
        default_factory=dict,
        description="processes of a slow stage, by its number: each takes whole batches, and the "
        "stage learns from the mean of their gradients; auto: give it the devices that are left",
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    local: LocalConfig = LocalConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    pipeline: PipelineConfig = PipelineConfig()
    elastic: ElasticConfig = ElasticConfig()
    fault_tolerance: FaultToleranceConfig = FaultToleranceConfig()
    resources: ResourcesConfig = ResourcesConfig()
    output: OutputConfig = OutputConfig()
    callbacks: list[str | dict[str, dict[str, Any] | None]] = Field(
        default_factory=list,
        description="who else is told: mlflow, wandb, or module:Class of your own; with options: "
        "{mlflow: {experiment: x}}",
    )

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, value: Any) -> Any:
        if wrong := problem(value):
            raise ValueError(wrong)
        return value

    @field_validator("stages", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return auto_or(value, "a number, a list of numbers of layers, or null")

    @field_validator("replicas", mode="before")
    @classmethod
    def _auto_replicas(cls, value: Any) -> Any:
        return auto_or(value, "a number for each stage, as in {2: 3}")

    @field_validator("callbacks")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        for entry in value:
            if isinstance(entry, dict) and len(entry) != 1:
                raise ValueError(
                    f"{entry!r} names {len(entry)} callbacks; write each as an entry of its own: "
                    "[mlflow, {wandb: {project: x}}]"
                )
        return value

    def replicas_of(self, stage: int) -> int:
        """Processes of one stage."""
        return 1 if self.replicas == "auto" else self.replicas.get(stage, 1)

    def rounds(self, steps_per_epoch: int) -> Rounds:
        """The rounds of stages that have replicas."""
        replicas = [] if self.replicas == "auto" else self.replicas.values()
        return Rounds.of(replicas, steps_per_epoch)

    def processes(self, stages: int) -> int:
        """Processes of so many stages."""
        return sum(self.replicas_of(k) for k in range(1, stages + 1))

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.model.kind == "transformer" and self.model.width % self.model.heads:
            raise ValueError(
                f"model.width: {self.model.width} is not a multiple of model.heads: "
                f"{self.model.heads}; choose a width that the heads divide"
            )
        per_call = self.pipeline.batches_per_call
        if self.replicas and per_call not in ("auto", 1):
            raise ValueError(
                f"pipeline.batches_per_call: {per_call} does not go with `replicas`: their batches "
                "are handed out one by one; allowed with replicas: auto, 1"
            )
        if self.pipeline.transport == "nixl" and self.fault_tolerance.enabled:
            raise ValueError(
                "pipeline.transport: 'nixl' does not go with fault_tolerance.enabled: true: what "
                "goes directly is gone with the process that sent it, and a stage that dies is "
                "replayed from such inputs. Set fault_tolerance.enabled to false, or take auto or "
                "object_store"
            )
        return self
