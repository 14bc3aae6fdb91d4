"""Training batches whose order depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader, Sampler

from avatar_bench.data.cache import ImageCache
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.loaders import EmbeddingDataset, ImageDataset, build_image_dataset, build_loader, encode_targets
from avatar_bench.data.shards import number_shards
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.errors import ConfigError


def find_rank() -> tuple[int, int]:
    """Return the number of this process in distributed training and their count; 0 and 1 elsewhere."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)


@dataclass(eq=False, repr=False)
class EpochSampler(Sampler[tuple[int, int]]):
    """Sampler of (row, augmentation seed) pairs, or (row, view) with `views`, in an order set by (seed, epoch) alone.

    Views rotate, one per epoch. The first epoch may be resumed after `skip` pairs. With `weights` (N,), rows are drawn
    with replacement in proportion to them. With `shards` (N,), those of rows, the rows of `together` shards at a time
    precede all others.
    """

    n: int
    seed: int
    weights: NDArray[np.floating] | None = None
    epoch: int = 0
    skip: int = 0
    views: int | None = None
    shards: NDArray[np.integer] | None = None
    together: int = 1

    def __post_init__(self) -> None:
        self.first = self.epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch; called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        chances = None if self.weights is None else self.weights / self.weights.sum()
        rows = rng.permutation(self.n) if chances is None else rng.choice(self.n, self.n, p=chances)
        if self.shards is not None:
            turns = np.random.default_rng([self.seed, self.epoch, 1]).permutation(self.shards.max() + 1)
            rows = rows[np.argsort(turns[self.shards[rows]] // self.together, kind="stable")]
        seeds = np.full(self.n, self.epoch % self.views) if self.views else rng.integers(0, 2**31, self.n)
        skip = self.skip if self.epoch == self.first else 0
        return zip(rows[skip:].tolist(), seeds[skip:].tolist(), strict=True)


class RankBatches(Sampler[list[tuple[int, int]]]):
    """Batches of `size` items of a sampler for this process: of each world x size items, every world-th.

    A last batch with fewer than two for a process, too few for batch norm, is added to the batch before.
    """

    def __init__(self, sampler: EpochSampler, size: int, rank: int = 0, world: int = 1) -> None:
        self.sampler, self.rank, self.world, self.step = sampler, rank, world, size * world

    def __len__(self) -> int:
        return len(self._list_starts(len(self.sampler)))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        items = list(self.sampler)
        starts = self._list_starts(len(items))
        for start, end in zip(starts, [*starts[1:], len(items)], strict=True):
            yield items[start:end][self.rank :: self.world]

    def _list_starts(self, n: int) -> range:
        starts = range(0, n, self.step)
        return starts[:-1] if len(starts) > 1 and n - starts[-1] < 2 * self.world else starts


def weigh_sources(labels: ArrayLike, sources: ArrayLike) -> NDArray[np.float64]:
    """Return weights (N,) of mean 1, of equal sums for classes and for sources, also "", within each class."""
    if not np.any(np.asarray(sources) != ""):
        reason = "mode.balance=source: no image names its source."
        raise ConfigError(reason, "Name them in the manifest, or use mode.balance=sampler.")
    frame = pd.DataFrame({"label": np.asarray(labels), "source": np.asarray(sources)})
    by_class = frame.groupby("label")["source"]
    images = frame.groupby(["label", "source"])["source"].transform("size")
    return (len(frame) / (frame["label"].nunique() * by_class.transform("nunique") * images)).to_numpy()


def weigh_classes(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return a weight for each class, (C,), from its number of images: equal sums for classes, mean 1 over images."""
    return np.asarray(counts.sum() / (len(counts) * counts))


class DataModule(pl.LightningDataModule):
    """Lightning data module of the train and val splits of one dataset.

    No dataclass: Lightning would look into the fields of one when it hands it to a process.
    """

    def __init__(
        self,
        dataset: Dataset,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        batch_size: int,
        workers: int,
        balance: str,
        augmented_copies: int | None = None,
        cache: ImageCache | None = None,
        answers: NDArray[np.float32] | None = None,
        shuffle_shards: int = 1,
    ) -> None:
        super().__init__()
        self.train_set, self.val_set = dataset.select_split("train"), dataset.select_split("val")
        self.classes, self.preprocessing, self.augmentation = classes, preprocessing, augmentation
        self.seed, self.batch_size, self.workers, self.balance = seed, batch_size, workers, balance
        self.augmented_copies = augmented_copies  # of each training image, drawn once; None: new ones each epoch
        self.cache = cache
        self.answers = answers  # probabilities (N, C) of training images, learned instead of labels
        self.shards, self.shuffle_shards = number_shards(self.train_set), shuffle_shards
        # of train, (views, N, D), and val, (1, N, D), used in place of images
        self.embeddings: dict[str, NDArray[np.float32]] | None = None
        self.image_weights = self._weigh_images()  # in the draw of training images, (N,); None: each once an epoch
        self.position = 0, 0  # the epoch and the finished batches of it at which training starts

    @property
    def train_targets(self) -> NDArray[np.int64]:
        """Return the class index of each training image, (N,); the teacher's prediction for an unlabelled one."""
        targets = encode_targets(self.train_set, self.classes)
        return targets if self.answers is None else np.where(targets < 0, self.answers.argmax(axis=1), targets)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Return the number of training images of each class, (C,)."""
        return np.bincount(self.train_targets, minlength=len(self.classes))

    @property
    def class_weights(self) -> list[float] | None:
        """Return the loss weight of each class, with mean 1 over the images, if balance is "loss"."""
        if self.balance != "loss":
            return None
        return [float(weight) for weight in weigh_classes(self.counts)]

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        learned = self.train_targets if self.answers is None else self.answers
        images: ImageDataset | EmbeddingDataset
        images = EmbeddingDataset(self.embeddings["train"], learned) if self.embeddings else self._build_training_set()
        epoch, batches = self.position
        views = len(self.embeddings["train"]) if self.embeddings else self.augmented_copies
        rank, world = find_rank()
        skip = batches * self.batch_size * world
        shards = None if self.embeddings else self.shards
        sampler = EpochSampler(
            len(images), self.seed, self.image_weights, epoch, skip, views, shards, self.shuffle_shards
        )
        workers = self.workers if self.embeddings is None else 0
        return build_loader(images, 1, workers, batch_sampler=RankBatches(sampler, self.batch_size, rank, world))

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        rank, world = find_rank()
        mine = np.arange(len(self.val_set))[rank::world]
        mine = mine if len(mine) else np.array([0])  # a process without a batch would have no metrics to combine
        val_set = self.val_set.take(mine) if world > 1 else self.val_set
        if self.embeddings is None:
            return self.plain(val_set)
        features = EmbeddingDataset(self.embeddings["val"][:, mine], encode_targets(val_set, self.classes))
        return build_loader(features, self.batch_size, 0)

    def plain(self, images: Dataset) -> DataLoader[dict[str, Any]]:
        """Build a loader of every image of a dataset once, in order, unaugmented."""
        loaded = build_image_dataset(images, self.classes, self.preprocessing, cache=self.cache)
        return build_loader(loaded, self.batch_size, self.workers)

    def fixed_copies_loader(self, views: int) -> DataLoader[dict[str, Any]]:
        """Build a loader of every training image, in order, in its first fixed augmentation, then in the next."""
        images = self._build_training_set()
        every = [(row, view) for view in range(views) for row in range(len(images))]
        return build_loader(images, self.batch_size, self.workers, sampler=every)

    def _weigh_images(self) -> NDArray[np.float64] | None:
        if self.balance == "source":
            return weigh_sources(self.train_targets, self.train_set.frame["source"])
        return 1 / self.counts[self.train_targets] if self.balance == "sampler" else None

    def _build_training_set(self) -> ImageDataset:
        # a third number makes this stream independent of EpochSampler's
        rng = np.random.default_rng([self.seed, 0, 1])
        seeds = rng.integers(0, 2**31, (self.augmented_copies, len(self.train_set))) if self.augmented_copies else None
        options = {"augmentation": self.augmentation, "view_seeds": seeds, "cache": self.cache}
        images = build_image_dataset(self.train_set, self.classes, self.preprocessing, **options)
        images.targets = images.targets if self.answers is None else self.answers
        return images
