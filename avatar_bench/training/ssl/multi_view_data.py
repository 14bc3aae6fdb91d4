"""Data module of self-supervised learning: several random views of each image, without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, default_collate

from avatar_bench.data.cache import ImageCache
from avatar_bench.data.dataset import Dataset, list_files
from avatar_bench.data.loaders import ImageDataset, build_evaluation_loader, build_loader
from avatar_bench.data.training_batches import EpochSampler
from avatar_bench.data.transforms import Preprocessing, RandomViews


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
        return build_evaluation_loader(images, (), self.preprocessing, self.batch_size, self.workers, cache=self.cache)


def _collate_views(items: list[dict[str, Any]]) -> dict[str, Any]:
    views = [default_collate(list(one)).movedim(-1, -3) for one in zip(*(item["views"] for item in items), strict=True)]
    return {"views": views, "row": default_collate([item["row"] for item in items])}
