"""Which keys of `model` each kind of network reads, so that others are not set in vain."""

from __future__ import annotations

from scpl_ray.config.schema import Config, DataConfig, ModelConfig

_EMBEDDING = ("embedding_dropout", "embedding_width", "word_vectors", "mean_over")
_READ: dict[str, tuple[str, ...]] = {
    "transformer": ("layers", "width", "heads", "ffn", "dropout", "positional", *_EMBEDDING),
    "lstm": ("layers", "width", "dropout", *_EMBEDDING),
    "convnet": ("channels", "dropout", "activation"),
    "vgg8": ("channels", "activation"),
    "resnet18": ("channels", "activation"),
    "vanillacnn": ("channels", "activation"),
    "huggingface": ("path", "pretrained", "options", "mean_over"),
}
# Of every network.
_ALWAYS = ("kind", "factory", "grown", "init_from")
# Of the vocabulary that is made from the training texts.
_VOCABULARY = ("vocab_size", "stop_words", "lowercase")


def without_effect(config: Config, kind: str) -> list[str]:
    """Words each key that differs from its default and is not read.

    Args:
        config: `model`, `data` and `local.pool` are read.
        kind: of the data: "text" or "image".
    """
    model = config.model
    own = f"a {model.kind}" if model.factory is None else "a network from a factory"
    reads = ("options",) if model.factory else _READ[model.kind]
    fields = ModelConfig.model_fields.items()
    idle = [
        f"model.{key} has no effect: {own} does not read it"
        for key, field in fields
        if key not in (*reads, *_ALWAYS)
        and getattr(model, key) != field.get_default(call_default_factory=True)
    ]
    sequences = model.factory is None and model.kind == "huggingface"
    if config.local.pool and (kind == "text" or sequences):
        idle.append("local.pool has no effect: there are no feature maps")
    if sequences and model.path and kind == "text":
        idle += [
            f"data.{key} has no effect: the tokenizer of {model.path!r} decides"
            for key in _VOCABULARY
            if getattr(config.data, key) != DataConfig.model_fields[key].default
        ]
    return idle
