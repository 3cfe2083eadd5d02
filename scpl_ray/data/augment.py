"""Random views of training images: a function of (seed, epoch, sample), whoever makes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from scpl_ray.rng import reseeding

VIEWS = {"none": 1, "weak": 1, "strong": 1, "two_views": 2}


class Augmenter:
    """Makes the views that `data.augment` names, with torchvision.transforms.v2.

    - weak: a crop of the image padded by an eighth of its side (4 of 32), and a flip, p 0.5;
    - strong: the same, then colour jitter (0.4, 0.4, 0.4, 0.1), p 0.8, and greyscale, p 0.2: the
      colours of SimCLR (Chen et al. 2020, arXiv 2002.05709) for small images;
    - two_views: one of each, the "strong" augmentation of the published experiments.

    Args:
        kind: "weak", "strong" or "two_views".
        seed: the run's.
        height: of the images.
        width: of the images.
    """

    def __init__(self, kind: str, seed: int, height: int, width: int) -> None:
        from torchvision.transforms import v2

        def weak() -> list[Any]:
            padding = max(1, min(height, width) // 8)
            return [v2.RandomCrop((height, width), padding=padding), v2.RandomHorizontalFlip()]

        # Colours by Pillow: in whole numbers, so the number of threads cannot change them, and
        # faster than tensors for small images.
        colours = [
            v2.ToPILImage(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.PILToTensor(),
        ]
        one, other = v2.Compose(weak()), v2.Compose([*weak(), *colours])
        self._views = {"weak": [one], "strong": [other], "two_views": [one, other]}[kind]
        self.seed = seed

    def __call__(self, pixels: np.ndarray, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Makes the views of a batch.

        Args:
            pixels: [B, C, H, W] uint8.
            rows: [B], the samples' places in the training split.
            epoch: from 0.

        Returns:
            [V * B, C, H, W] uint8, the V views of a sample side by side.
        """
        import torch

        views = len(self._views)
        made = np.empty((views * len(pixels), *pixels.shape[1:]), np.uint8)
        with reseeding() as reseed:
            for i, row in enumerate(rows):
                reseed(self.seed, "augment", epoch, int(row))
                image = torch.from_numpy(pixels[i])
                for v, view in enumerate(self._views):
                    made[views * i + v] = view(image).numpy()
        return made
