"""Data loaders: images decoded, transformed and batched by prefetching worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from avatar_bench.console.machine import trim_memory
from avatar_bench.console.signals import block_termination, ignore_termination
from avatar_bench.data.cache import ImageCache
from avatar_bench.data.corruptions import Variation, apply_variation, derive_seed
from avatar_bench.data.dataset import Dataset, list_files
from avatar_bench.data.decoding import decode, try_decode
from avatar_bench.data.equalise import ImageArray
from avatar_bench.data.transforms import Augmentation, Preprocessing

_PREFETCH_BYTES = 2**26  # bytes of images that a process may decode in advance


@dataclass(eq=False)
class ImageDataset(TorchDataset[dict[str, Any]]):
    """Images of a dataset: item k is {"image": uint8 (S, S, 3), "target": int or float (C,), "row": k}.

    A broken file raises DataError. With `augmentation`, items are requested as (row, seed), or with `view_seeds`
    (views, N) as (row, view). With `cache`, images are read through it by their SHA-256, `hashes` (N,), unless they are
    re-encoded at their own size.
    """

    files: Sequence[Path]
    targets: NDArray[np.int64] | NDArray[np.float32]  # class indices (N,), or probabilities (N, C)
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    view_seeds: NDArray[np.int64] | None = None
    cache: ImageCache | None = None
    hashes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        row, seed = item if isinstance(item, tuple) else (item, None)
        if self.view_seeds is not None and seed is not None:
            seed = int(self.view_seeds[seed, row])
        if self.augmentation is None or seed is None:
            image = self.prepare(row)
        else:
            deliver = self.augmentation.draw_delivery(seed)
            if deliver:
                native = decode(self.files[row])
                prepared = self.preprocessing(deliver(native), native)
            else:
                prepared = self.prepare(row)
            image = self.augmentation(prepared, seed)
        return {"image": image, "target": self.targets[row], "row": row}

    def prepare(self, row: int) -> ImageArray:
        """Return an image at the network's size."""
        file = self.files[row]
        return self.cache.read(file, self.hashes[row]) if self.cache else self.preprocessing(decode(file))


class ReadableImageDataset(TorchDataset[dict[str, Any]]):
    """Files that may be broken: item k is {"images", "row": k}, or {"row", "reason"} if the file cannot be used.

    `images` is a list of uint8 (S, S, 3), one per preprocessing, and then as many of each of the `variations`, which
    depend on no seed; a file is decoded once. Worker processes share one array of all paths.
    """

    def __init__(
        self, paths: Sequence[str], preprocessings: Sequence[Preprocessing], variations: Sequence[Variation] = ()
    ) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)])
        self.preprocessings, self.variations = tuple(preprocessings), tuple(variations)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        path = os.fsdecode(self.text[self.ends[row] : self.ends[row + 1]].tobytes())
        native, reason = try_decode(path)
        if native is None:
            return {"row": row, "reason": reason}
        versions = chain([native], (variation(native, 0) for variation in self.variations))
        return {"images": [prepare(image, native) for image in versions for prepare in self.preprocessings], "row": row}


class ReadFiles(list[str]):
    """Paths of files that have been read: `batch` is what `build_readable_loader` would yield of them."""

    def __init__(self, paths: Sequence[str], batch: Mapping[str, Any]) -> None:
        super().__init__(paths)
        self.batch = batch


@dataclass(eq=False, kw_only=True)
class VariedImageDataset(ImageDataset):
    """K variations of image k, decoded once: {"image": uint8 (K, S, S, 3), "target", "row"}; `hashes` seed them."""

    variations: Sequence[Variation]

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        row = item[0] if isinstance(item, tuple) else item
        native, seed = decode(self.files[row]), derive_seed(self.hashes[row])
        square = self.preprocessing(native)

        def prepare(image: ImageArray) -> ImageArray:  # images not varied at native size are prepared once
            return square if image is native else self.preprocessing(image, native)

        images = [apply_variation(variation, native, prepare, seed) for variation in self.variations]
        return {"image": np.stack(images), "target": self.targets[row], "row": row}


class EmbeddingDataset(TorchDataset[dict[str, Any]]):
    """Embeddings (views, N, D) in place of images: {"embedding": (D,), "target", "row"} of a row, or (row, view)."""

    def __init__(self, embeddings: NDArray[np.float32], targets: NDArray[np.int64] | NDArray[np.float32]) -> None:
        self.embeddings = torch.from_numpy(embeddings)
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        row, view = item if isinstance(item, tuple) else (item, 0)
        return {"embedding": self.embeddings[view, row], "target": self.targets[row], "row": row}


def build_varied_loader(
    dataset: Dataset,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    variations: Sequence[Variation],
    batch_size: int,
    workers: int,
) -> DataLoader[dict[str, Any]]:
    """Build a loader of K variations of one image at a time, uint8 (K, S, S, 3), in order; a batch is read ahead."""
    files, targets = list_files(dataset), encode_targets(dataset, classes)
    hashes = list(dataset.frame["sha256"])
    images = VariedImageDataset(files, targets, preprocessing, variations=variations, hashes=hashes)
    ahead = -(-batch_size // workers) if workers else None
    return build_loader(images, None, workers, collate_fn=None, prefetch_factor=ahead)


def build_readable_loader(
    paths: Sequence[str],
    preprocessings: Sequence[Preprocessing],
    batch_size: int,
    workers: int,
    variations: Sequence[Variation] = (),
) -> DataLoader[dict[str, Any]]:
    """Build a loader of every file once, in order.

    Batches are {"seen": (row, reason or "") of each file, "images": for each preprocessing, and then for each of every
    variation, the readable files as uint8 (n, 3, S, S) in channels-last memory}.
    """
    images = ReadableImageDataset(paths, preprocessings, variations)
    largest = max((preprocessing.size for preprocessing in preprocessings), default=1)
    item_bytes = 3 * largest**2 * (1 + len(variations))
    ahead = min(8, max(2, _PREFETCH_BYTES // (batch_size * item_bytes))) if workers else None
    return build_loader(images, batch_size, workers, collate_fn=_collate_readable, prefetch_factor=ahead)


def build_loader(
    images: TorchDataset[dict[str, Any]], batch_size: int | None, workers: int, **options: Any
) -> DataLoader[dict[str, Any]]:
    """Build a loader of uint8 (N, [K,] 3, S, S), by default in order, that does not consume the global random state."""
    return ManagedLoader(
        images,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0 and not options.keys().isdisjoint(("sampler", "batch_sampler")),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=_lower_priority,
        multiprocessing_context=make_worker_context() if workers else None,
        **{"collate_fn": _collate, **options},
    )


def build_image_dataset(
    dataset: Dataset, classes: Sequence[str], preprocessing: Preprocessing, **options: Any
) -> ImageDataset:
    """Build the torch dataset of a dataset's images, in its order."""
    hashes = list(dataset.frame["sha256"])
    return ImageDataset(list_files(dataset), encode_targets(dataset, classes), preprocessing, hashes=hashes, **options)


def encode_targets(dataset: Dataset, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class index of each image, (N,); -1 if its label is not among `classes`."""
    index: Mapping[str, int] = {name: k for k, name in enumerate(classes)}
    return np.array([index.get(label, -1) for label in dataset.frame["label"]], dtype=np.int64)


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Convert (H, W, 3) into a (3, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate(items)
    if "image" in batch:
        batch["image"] = batch["image"].movedim(-1, -3)
    return batch


def _collate_readable(items: list[dict[str, Any]]) -> dict[str, Any]:
    good = zip(*(item["images"] for item in items if "images" in item), strict=True)
    images = [default_collate(list(same_side)).movedim(-1, -3) for same_side in good]
    return {"seen": [(item["row"], item.get("reason", "")) for item in items], "images": images}


def _lower_priority(worker: int) -> None:
    """Use one thread at low priority: the network's threads wait for each other, while images are prefetched."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.nice(15)  # a higher value would starve beside other programs
        with suppress(OSError):  # so that workers do not interrupt a step of the network
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def make_worker_context() -> BaseContext | None:
    """Return the multiprocessing context of a loader; None, torch's default, where processes are not forked."""
    return _Context() if sys.platform == "linux" else None


class ManagedLoader(DataLoader[Any]):
    """Loader whose processes end before the interpreter, or multiprocessing would wait for them forever."""

    _running: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def _get_iterator(self) -> Any:
        if self.num_workers:
            trim_memory()
        batches = super()._get_iterator()
        self._running.add(batches)
        return batches

    @classmethod
    def end(cls) -> None:
        """End the processes of all loaders."""
        for batches in list(cls._running):
            _shut_down(batches)


# Registered after the imports of torch and multiprocessing, so it runs before their own exit handlers
atexit.register(ManagedLoader.end)


@contextmanager
def iterate_batches(loader: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Yield an iterator over a loader's batches, and end its processes on every exit path."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        # torch waits for the last reference, which a traceback may hold past the end of the command
        _shut_down(batches)


def _shut_down(batches: Any) -> None:
    with ignore_termination():
        getattr(batches, "_shutdown_workers", lambda: None)()


if sys.platform == "linux":

    class _Worker(multiprocessing.context.ForkProcess):
        """Process that blocks Ctrl-C and SIGTERM: torch would print a traceback for each process that receives them."""

        def start(self) -> None:
            with block_termination():
                super().start()

        def run(self) -> None:
            sys.excepthook = lambda *error: None  # a closed connection to the main process is expected
            super().run()

        def terminate(self) -> None:
            self.kill()

    class _Context(multiprocessing.context.ForkContext):
        Process = _Worker
