"""What a local objective is: reduced features and labels -> a loss that one stage minimises.

    reduced r_k [B, D], labels [B]  ->  LocalLoss

The gradient of the loss ends at the stage's input; nothing of it reaches the stage before.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.heads import exit_head, projection_head
from scpl_ray.losses import at_least_float32
from scpl_ray.rng import seeded


@dataclass(frozen=True)
class LocalLoss:
    """What one batch gives a stage.

    Attributes:
        total: the scalar that the stage minimises.
        contrastive: its contrastive part, None without one.
        prediction: cross entropy of the exit head, None without one.
        logits: [B, C] of the exit head, without a gradient; None without one.
        parts: further parts by name, for the logs; a part comes before its weight.
    """

    total: Tensor
    contrastive: Tensor | None
    prediction: Tensor | None
    logits: Tensor | None
    parts: dict[str, Tensor] = field(default_factory=dict)

    def detach(self) -> LocalLoss:
        """The same numbers without the graph that they came from."""

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach()

        parts = {name: part.detach() for name, part in self.parts.items()}
        known = (cut(self.contrastive), cut(self.prediction), cut(self.logits))
        return LocalLoss(self.total.detach(), *known, parts)


@dataclass(frozen=True)
class Place:
    """Where an objective sits.

    Attributes:
        layer: name of the stage's last layer; the initial weights of heads depend on it.
        features: width D of r_k.
        classes: number of classes.
        style: "text" or "image".
        with_exit: whether the stage has an exit.
        last: whether it is the network's last stage.
        channels: C where the stage gives feature maps [B, C, H, W]; known to objectives that
            take maps.
    """

    layer: str
    features: int
    classes: int
    style: str
    with_exit: bool
    last: bool = True
    channels: int | None = None


class Objective(nn.Module):
    """Base of local objectives: a stage's heads and its loss.

    A class of its own adds its heads in `__init__`, each inside `with self.seeded(NAME)`, so that
    their first weights depend on the run's seed and the layer alone, and computes in `forward`.
    What it draws at random elsewhere must be keyed like that too (`scpl_ray.rng`). One's own class
    is built as `Mine(config, place, **local.options)`.

    Args:
        config: `seed` and `local` are read.
        place: where the stage sits.

    Attributes:
        exits: which stages answer for themselves: every one, or the last.
        end_to_end: whether its layers need the gradient of the stage behind. Its stages can
            neither join nor leave while it trains.
        needs_positives: whether it learns from samples of one class within a batch.
        takes_maps: whether `forward` reads the stage's whole output.
        reads: keys of `local` that have an effect; None: it does not say.
        exit_head: [B, D] -> logits [B, C]; None without an exit.
    """

    exits: ClassVar[Literal["every", "last"]] = "every"
    end_to_end: ClassVar[bool] = False
    needs_positives: ClassVar[bool] = False
    takes_maps: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = None
    exit_head: nn.Module | None

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__()
        self.seed, self.local, self.place = config.seed, config.local, place
        self.exit_head = None

    def seeded(self, name: str) -> AbstractContextManager[None]:
        """Draws the initial weights of a head from (seed, its name, the layer)."""
        return seeded(self.seed, "init", name, self.place.layer)

    def make_projection_head(self) -> nn.Module:
        """Builds the projection head of the config, [B, D] -> [B, out]."""
        with self.seeded("projection_head"):
            return projection_head(
                self.local.projection_head, self.place.features, self.place.style
            )

    def add_exit_head(self) -> None:
        """Builds the exit head of the config, where the stage has an exit."""
        place = self.place
        if place.with_exit:
            with self.seeded("exit_head"):
                self.exit_head = exit_head(
                    self.local.exit_head, place.features, place.classes, place.style
                )

    def predict(self, reduced: Tensor, labels: Tensor, detach: bool) -> tuple[Tensor, Tensor]:
        """Asks the exit head: (cross entropy, logits [B, C]).

        Args:
            reduced: [B, D].
            labels: [B].
            detach: the head alone learns from it, not the stage.
        """
        assert self.exit_head is not None
        logits = self.exit_head(reduced.detach() if detach else reduced)
        return F.cross_entropy(at_least_float32(logits), labels), logits

    def apart(self) -> list[nn.Parameter]:
        """Parameters whose gradients are clipped by themselves: heads that the stage ignores."""
        return [] if self.exit_head is None else list(self.exit_head.parameters())

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Computes the stage's loss.

        Args:
            reduced: r_k [B, D], gradient attached.
            labels: [B].
            hidden: the stage's output as it is, e.g. [B, C, H, W]; given where `takes_maps`.
        """
        raise NotImplementedError
