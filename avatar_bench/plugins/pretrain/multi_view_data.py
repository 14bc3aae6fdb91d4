"""Data module of self-supervised learning: several random views of each image, without labels."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, default_collate

from avatar_bench.data.cache import ImageCache
from avatar_bench.data.dataset import Dataset, list_files
from avatar_bench.data.equalise import ImageArray
from avatar_bench.data.loaders import ImageDataset, build_image_dataset, build_loader
from avatar_bench.data.training_batches import EpochSampler
from avatar_bench.data.transforms import Preprocessing


@dataclass(frozen=True)
class RandomViews:
    """Several random views of one image, for self-supervised learning.

    size: side in pixels of the `large` views, whose crops cover `crop_scale` to all of the image's area. local_size:
    side of the `small` ones, whose crops cover 5 % to `crop_scale`. flip, grey, blur: probabilities. jitter: strength
    of the colour jitter, which is applied with probability 0.8: brightness and contrast change by up to 0.8 times it,
    saturation by 0.4, hue by 0.2. Caron et al., ICCV 2021, after Chen et al., ICML 2020.
    """

    size: int
    crop_scale: float
    large: int = 2
    small: int = 0
    local_size: int = 0
    flip: float = 0.5
    jitter: float = 0.5
    grey: float = 0.2
    blur: float = 0.5
    _kinds: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scales = (self.crop_scale, 1.0), (min(0.05, self.crop_scale), self.crop_scale)
        kinds = zip((self.large, self.small), (self.size, self.local_size), scales, strict=True)
        composed = [(count, _compose_view(self, side, scale)) for count, side, scale in kinds if count]
        object.__setattr__(self, "_kinds", composed)

    def __call__(self, image: ImageArray, seed: int) -> list[ImageArray]:
        """Return the views of (H, W, 3) uint8 RGB, large ones first; they depend only on `image` and `seed`."""
        seeds = iter(np.random.default_rng(seed).integers(0, 2**31, self.large + self.small).tolist())
        views = []
        for count, compose in self._kinds:
            for _ in range(count):
                compose.set_random_seed(next(seeds))
                views.append(compose(image=image)["image"])
        return views


class MultiViewImages(ImageDataset):
    """Images as random views: item (k, seed) is {"views": a list of uint8 (S, S, 3), "row": k}."""

    def __init__(
        self, dataset: Dataset, views: RandomViews, preprocessing: Preprocessing, cache: ImageCache | None
    ) -> None:
        unknown = np.full(len(dataset), -1)
        super().__init__(list_files(dataset), unknown, preprocessing, cache=cache, hashes=list(dataset.frame["sha256"]))
        self.views = views

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        row, seed = item if isinstance(item, tuple) else (item, 0)
        return {"views": self.views(self.prepare(row), seed), "row": row}


class MultiViewDataModule(pl.LightningDataModule):
    """Lightning data module with random views for training and unaugmented images for the probe."""

    def __init__(
        self,
        dataset: Dataset,
        views: RandomViews,
        preprocessing: Preprocessing,
        *,
        seed: int,
        batch_size: int,
        workers: int,
        cache: ImageCache | None = None,
    ) -> None:
        super().__init__()
        self.dataset, self.views, self.preprocessing, self.cache = dataset, views, preprocessing, cache
        self.seed, self.batch_size, self.workers = seed, batch_size, workers
        self.position = 0, 0  # where training starts: the epoch, and how many of its batches are done

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return a loader of each image once per epoch: {"views": a list of uint8 (N, 3, S, S), "row"}.

        Incomplete batches are dropped if there is a complete one, so that each image is contrasted with equally many.
        """
        images = MultiViewImages(self.dataset, self.views, self.preprocessing, self.cache)
        epoch, batches = self.position
        sampler = EpochSampler(len(images), self.seed, epoch=epoch, skip=batches * self.batch_size)
        has_full_batch = len(images) >= self.batch_size
        return build_loader(
            images, self.batch_size, self.workers, sampler=sampler, drop_last=has_full_batch, collate_fn=_collate_views
        )

    def plain_loader(self, images: Dataset) -> DataLoader[dict[str, Any]]:
        """Return a loader of every image of a dataset once, in order, without augmentation."""
        loaded = build_image_dataset(images, (), self.preprocessing, cache=self.cache)
        return build_loader(loaded, self.batch_size, self.workers)


def _collate_views(items: list[dict[str, Any]]) -> dict[str, Any]:
    views = [
        default_collate(list(images)).movedim(-1, -3) for images in zip(*(item["views"] for item in items), strict=True)
    ]
    return {"views": views, "row": default_collate([item["row"] for item in items])}


def _compose_view(views: RandomViews, side: int, scale: tuple[float, float]) -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    colours = (0.8 * views.jitter, 0.8 * views.jitter, 0.4 * views.jitter, 0.2 * views.jitter)
    steps: list[Any] = [
        albumentations.RandomResizedCrop((side, side), scale=scale, p=1),
        albumentations.HorizontalFlip(p=views.flip),
        albumentations.ColorJitter(*colours, p=0.8 if views.jitter else 0),
        albumentations.ToGray(p=views.grey),
        albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=views.blur),
    ]
    return albumentations.Compose([step for step in steps if step.p])
