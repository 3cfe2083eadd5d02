"""Associated learning (Wu et al., ICLR 2022, arXiv 2102.05246): features meet a code of the label.

First form: Kao & Chen, Neural Computation 33, 2021, arXiv 1906.05560. A component has the layers f,
a label encoder g, a decoder h of its code, and a bridge b:

    s = f(input)    t = g(y)    associated loss |b(s) - t|^2    autoencoder loss |h(t) - y|^2

As the authors have it: both losses, each a mean square, weighted 1:1; the bridge's gradient reaches
the label encoder (later code of the same group detaches it: `associated.detach_target`); an answer
is the decoded bridge, h(b(s)), and is not trained as such; widths and squashing functions are those
of the later code (text: one linear layer and Tanh each; images: Sigmoid, code of 500, and a hidden
layer of 2,500 in the bridge).

Not as they have it: there, t_k = g_k(t_{k-1}) comes from the label side of the component before,
h_k gives t_{k-1} back, and an answer is decoded through the h of all components, last to first.
Here each stage's label side begins at the label, which travels with the batch anyway, and ends at
it: a stage can then answer by itself, and join or leave, and nothing travels backwards. A label
takes C values only, so either code is a table of C rows that g_k chooses; what differs is how these
rows come about. `reconstruction: cross_entropy` replaces the autoencoder's mean square, so that
exits give probabilities.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.config.schema import Config
from scpl_ray.losses import at_least_float32
from scpl_ray.objectives.base import LocalLoss, Objective, Place

_IMAGE_WIDTH, _IMAGE_HIDDEN = 500, 5


class Associated(Objective):
    """The bridge, the label encoder and the decoder of a stage; bridge and decoder are its exit."""

    reads: ClassVar[tuple[str, ...] | None] = ("associated",)

    def __init__(self, config: Config, place: Place) -> None:
        super().__init__(config, place)
        self.own = self.local.associated
        text = place.style == "text"
        squash: type[nn.Module] = nn.Tanh if text else nn.Sigmoid
        features, classes = place.features, place.classes
        width = self.own.width or (features if text else _IMAGE_WIDTH)
        with self.seeded("label_encoder"):
            self.label_encoder = nn.Sequential(nn.Linear(classes, width), squash())
        with self.seeded("exit_head"):
            inner = [] if text else [nn.Linear(features, _IMAGE_HIDDEN * width), squash()]
            before = features if text else _IMAGE_HIDDEN * width
            bridge = nn.Sequential(*inner, nn.Linear(before, width), squash())
            decoder: nn.Module = nn.Linear(width, classes)
            if self.own.reconstruction == "mse":
                decoder = nn.Sequential(decoder, squash())
            self.exit_head = nn.Sequential(OrderedDict(bridge=bridge, decoder=decoder))

    def apart(self) -> list[nn.Parameter]:
        """None: the bridge trains the layers."""
        return []

    def forward(self, reduced: Tensor, labels: Tensor, hidden: Tensor | None = None) -> LocalLoss:
        """Associated loss + autoencoder loss."""
        assert isinstance(self.exit_head, nn.Sequential)
        bridge, decoder = self.exit_head
        one_hot = F.one_hot(labels, self.place.classes).to(reduced.dtype)
        met, code = bridge(reduced), self.label_encoder(one_hot)
        target = code.detach() if self.own.detach_target else code
        associated = F.mse_loss(at_least_float32(met), at_least_float32(target))
        decoded = at_least_float32(decoder(code))
        if self.own.reconstruction == "mse":
            autoencoder = F.mse_loss(decoded, one_hot.to(decoded.dtype))
        else:
            autoencoder = F.cross_entropy(decoded, labels)
        logits = decoder(met.detach()).detach()
        prediction = F.cross_entropy(at_least_float32(logits), labels)
        parts = {"associated": associated, "autoencoder": autoencoder}
        return LocalLoss(associated + autoencoder, None, prediction, logits, parts)
