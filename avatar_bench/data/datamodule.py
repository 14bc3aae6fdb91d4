"""Batches: decoded, transformed images in an order that depends on the seed alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from avatar_bench.data.corruptions import Variation, seed_of, vary
from avatar_bench.data.decode import decode
from avatar_bench.data.geometry import Image
from avatar_bench.data.manifest import Dataset, files_of
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.data.workers import Loader, context
from avatar_bench.errors import DataError


class Images(TorchDataset[dict[str, Any]]):
    """Give image k as {"image": uint8 (3, S, S), "target": int, "row": k}; a broken file raises DataError.

    With `augmentation`, an item is asked for as (row, seed).
    """

    def __init__(
        self,
        files: Sequence[Path],
        targets: NDArray[np.int64],
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.files = [str(file) for file in files]
        self.targets = targets
        self.preprocessing = preprocessing
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        row, seed = item if isinstance(item, tuple) else (item, None)
        image = self.preprocessing(decode(Path(self.files[row])))
        if self.augmentation is not None and seed is not None:
            image = self.augmentation(image, seed)
        return {"image": to_tensor(image), "target": int(self.targets[row]), "row": row}


class ReadableImages(TorchDataset[dict[str, Any]]):
    """Give file k as {"image": uint8 array (3, S, S), "row": k}, or as {"row", "reason"} where it cannot be used.

    The paths lie in one array: worker processes that read strings would each come to hold a copy of them all.
    """

    def __init__(self, paths: Sequence[str], preprocessing: Preprocessing) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)])
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        path = os.fsdecode(self.text[self.ends[row] : self.ends[row + 1]].tobytes())
        try:
            image = self.preprocessing(decode(Path(path)))
            return {
                "image": np.ascontiguousarray(image.transpose(2, 0, 1)),
                "row": row,
            }  # cheaper to send than a tensor
        except DataError as error:
            return {"row": row, "reason": error.lines[0].removeprefix(f"{Path(path)}: ")}


class VariedImages(Images):
    """Give K variations of image k, decoded once: {"image": uint8 (K, 3, S, S), "target", "row"}.

    The seed of a variation is the picture's own, of `hashes` (N,) in hex: the same whatever network is judged,
    and in whatever order, by however many workers, it is read.
    """

    def __init__(self, *args: Any, variations: Sequence[Variation], hashes: Sequence[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.variations = tuple(variations)
        self.seeds = [seed_of(digest) for digest in hashes]

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        row = item[0] if isinstance(item, tuple) else item
        native = decode(Path(self.files[row]))
        square = self.preprocessing(native)

        def prepare(image: Image) -> Image:  # what is not varied before is prepared once
            return square if image is native else self.preprocessing(image)

        images = [to_tensor(vary(variation, native, prepare, self.seeds[row])) for variation in self.variations]
        return {"image": torch.stack(images), "target": int(self.targets[row]), "row": row}


class Embeddings(TorchDataset[dict[str, Any]]):
    """Give what a network made of image k, {"embedding": (D,), "target": int, "row": k}, in place of the image."""

    def __init__(self, embeddings: NDArray[np.float32], targets: NDArray[np.int64]) -> None:
        self.embeddings = torch.from_numpy(embeddings)
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        row = item[0] if isinstance(item, tuple) else item
        return {"embedding": self.embeddings[row], "target": int(self.targets[row]), "row": row}


class EpochSampler(Sampler[tuple[int, int]]):
    """Give (row, augmentation seed) pairs in an order of (seed, epoch) alone.

    The first epoch that is asked for may begin within it, after `skip` pairs. With `weights` (N,), rows are drawn
    with replacement in proportion to them. Under distributed training each process takes every world-size-th pair.
    """

    def __init__(
        self, n: int, seed: int, weights: NDArray[np.floating] | None = None, epoch: int = 0, skip: int = 0
    ) -> None:
        self.n = n
        self.seed = seed
        self.weights = None if weights is None else weights / weights.sum()
        self.epoch = self.first = epoch
        self.skip = skip
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.world = torch.distributed.get_world_size() if distributed else 1

    def set_epoch(self, epoch: int) -> None:
        """Take the epoch that comes; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(self.n) if self.weights is None else rng.choice(self.n, self.n, p=self.weights)
        seeds = rng.integers(0, 2**31, self.n)
        mine = slice(self.rank, self.n // self.world * self.world, self.world)
        skip = self.skip if self.epoch == self.first else 0
        return zip(rows[mine].tolist()[skip:], seeds[mine].tolist()[skip:], strict=True)


class DataModule(pl.LightningDataModule):
    """Serve the train and val splits of one dataset to Lightning."""

    def __init__(
        self,
        dataset: Dataset,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        batch_size: int,
        workers: int,
        balance: str,
    ) -> None:
        super().__init__()
        self.train_set, self.val_set = dataset.part("train"), dataset.part("val")
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.batch_size = batch_size
        self.workers = workers
        self.balance = balance
        self.embeddings: dict[str, NDArray[np.float32]] | None = None  # of train and val, served in place of images
        self.position = 0, 0  # the epoch, and the batches of it that are done, where training begins

    @property
    def counts(self) -> NDArray[np.int64]:
        """Give the number of training images of each class, (C,)."""
        return np.bincount(targets_of(self.train_set, self.classes), minlength=len(self.classes))

    @property
    def class_weights(self) -> list[float] | None:
        """Give the weight of each class in the loss, of mean 1 over the images, where balance is "loss"."""
        if self.balance != "loss":
            return None
        return [float(weight) for weight in self.counts.sum() / (len(self.classes) * self.counts)]

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        targets = targets_of(self.train_set, self.classes)
        weights = 1 / self.counts[targets] if self.balance == "sampler" else None
        images: Images | Embeddings
        if self.embeddings is None:
            images = Images(files_of(self.train_set), targets, self.preprocessing, self.augmentation)
        else:
            images = Embeddings(self.embeddings["train"], targets)
        epoch, batches = self.position
        sampler = EpochSampler(len(images), self.seed, weights, epoch, batches * self.batch_size)
        # a last batch of one image has no batch-norm statistics
        lonely = len(sampler) % self.batch_size == 1 and len(sampler) > 1
        workers = self.workers if self.embeddings is None else 0
        return loader(images, self.batch_size, workers, sampler=sampler, drop_last=lonely)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        if self.embeddings is None:
            return self.plain(self.val_set)
        targets = targets_of(self.val_set, self.classes)
        return loader(Embeddings(self.embeddings["val"], targets), self.batch_size, 0)

    def plain(self, images: Dataset) -> DataLoader[dict[str, Any]]:
        """Serve every image of a dataset once, in order, unaugmented."""
        return evaluation_loader(images, self.classes, self.preprocessing, self.batch_size, self.workers)


def evaluation_loader(
    dataset: Dataset, classes: Sequence[str], preprocessing: Preprocessing, batch_size: int, workers: int
) -> DataLoader[dict[str, Any]]:
    """Serve every image of a dataset once, in order, unaugmented."""
    images = Images(files_of(dataset), targets_of(dataset, classes), preprocessing)
    return loader(images, batch_size, workers)


def varied_loader(
    dataset: Dataset,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    variations: Sequence[Variation],
    batch_size: int,
    workers: int,
) -> DataLoader[dict[str, Any]]:
    """Serve K variations of every image of a dataset, in order."""
    files, targets = files_of(dataset), targets_of(dataset, classes)
    hashes = list(dataset.frame["sha256"])
    images = VariedImages(files, targets, preprocessing, variations=variations, hashes=hashes)
    return loader(images, batch_size, workers)


def loader(
    images: Images | ReadableImages | Embeddings, batch_size: int, workers: int, **options: Any
) -> DataLoader[dict[str, Any]]:
    """Build a loader that draws nothing from the global random state."""
    return Loader(
        images,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0 and "sampler" in options,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=_one_thread,
        multiprocessing_context=context() if workers else None,
        **options,
    )


def targets_of(dataset: Dataset, classes: Sequence[str]) -> NDArray[np.int64]:
    """Give the index of each image's class by name, (N,); -1 where its label is not among `classes`."""
    index: Mapping[str, int] = {name: k for k, name in enumerate(classes)}
    return np.array([index.get(label, -1) for label in dataset.frame["label"]], dtype=np.int64)


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Turn (H, W, 3) into a (3, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
