"""Features of a frozen network: of all images of a stage at once, or of single images with a cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from avatar_bench.console.progress import track
from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data.cache import ArrayCache
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.loaders import build_image_dataset, build_loader
from avatar_bench.data.training_batches import DataModule
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.inference.feature_cache import find_feature_cache
from avatar_bench.models.batch_norm_folding import fold_batch_norms
from avatar_bench.models.classifier import Classifier
from avatar_bench.training.environment import resolve_precision, resolve_torch_device
from avatar_bench.training.module import Learner

if TYPE_CHECKING:
    from avatar_bench.commands.train import TrainConfig

MAX_FEATURE_BYTES = 2**30  # bytes of the features of a stage


def keep_features(learner: Learner, data: DataModule, settings: TrainConfig) -> int:
    """Add the features of a stage to its data; return for how many augmented copies of each image, 0 for none."""
    data.embeddings = None
    views = min(data.augmented_copies or 0, learner.stage.epochs) if data.augmentation.is_active else 1
    if not learner.is_trained_on_embeddings or not views or settings.trainer.limit_batches is not None:
        return 0
    if views * len(data.train_set) * learner.embedding_bytes > MAX_FEATURE_BYTES:
        print_note(f"warning: features of {views} augmented copies do not fit in memory and are computed in each epoch")
        return 0
    batches = data.fixed_copies_loader(views) if data.augmentation.is_active else data.plain(data.train_set)
    train = embed(learner, batches, settings).reshape(views, len(data.train_set), -1)
    data.embeddings = {"train": train, "val": embed(learner, data.plain(data.val_set), settings)[None]}
    what = format_count(len(data.train_set), "image") + f", in {views} augmented copies each," * (views > 1)
    print_note(f"  the features of {what} are computed once for all epochs")
    return views


def embed(learner: Learner, batches: Iterable[dict[str, Any]], settings: TrainConfig) -> NDArray[np.float32]:
    """Compute the embeddings (N, D) of batches of images with the learner in eval mode."""
    return np.concatenate(list(iterate_embeddings(learner, batches, settings)))


@torch.inference_mode()
def iterate_embeddings(
    learner: Learner, batches: Iterable[dict[str, Any]], settings: TrainConfig
) -> Iterator[NDArray[np.float32]]:
    """Yield the embeddings (n, D) of each batch of images with the learner in eval mode."""
    options = settings.trainer
    learner.eval().to(resolve_torch_device(options.accelerator))
    if options.channels_last:
        learner.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = fold_batch_norms(Classifier(learner.card, learner.net).eval().to(learner.device))
    reduced = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision(options))
    with torch.autocast(learner.device.type, reduced or torch.bfloat16, enabled=reduced is not None):
        for batch in track(batches, "features", unit="batch"):
            yield network.compute(batch["image"].to(learner.device))[1].float().cpu().numpy()


def compute_features(
    learner: Learner, data: DataModule, images: Dataset, settings: TrainConfig, copies: int = 0
) -> tuple[NDArray[np.float32], int]:
    """Return the features (V, N, D) of images, and how many of them were computed now; the others were in the cache.

    There is one view, unaugmented, or `copies`, each of which depends only on the image and its own number.
    """
    hashes, views = list(images.frame["sha256"]), max(copies, 1)
    keys = [sha256_of_text(f"{digest} {copy}") if copies else digest for copy in range(views) for digest in hashes]
    cache = _open_cache(learner, data, keys, settings, bool(copies))
    features = np.empty((len(keys), learner.embedding_bytes // 4), dtype=np.float32)
    missing = []
    for index, key in enumerate(keys):
        if cache is not None and (cached := cache.load(key)) is not None:
            features[index] = cached
        else:
            missing.append(index)
    if missing:
        seeds = np.array([int(key[:7], 16) for key in keys]).reshape(views, len(hashes))
        augmented = {"augmentation": data.augmentation, "view_seeds": seeds} if copies else {}
        loaded = build_image_dataset(images, data.classes, data.preprocessing, cache=data.cache, **augmented)
        items = [(index % len(hashes), index // len(hashes)) for index in missing]
        batches = build_loader(loaded, data.batch_size, data.workers, sampler=items)
        done = 0
        for batch in iterate_embeddings(learner, batches, settings):
            for index, values in zip(missing[done : done + len(batch)], batch, strict=True):
                features[index] = values
                if cache is not None:
                    cache.store(keys[index], values)
            done += len(batch)
    return features.reshape(views, len(hashes), -1), len(missing)


def _open_cache(
    learner: Learner, data: DataModule, keys: list[str], settings: TrainConfig, augments: bool
) -> ArrayCache | None:
    """Open the cache of the features of one network; None, with a warning, if it has no room for these images.

    Augmentations of users are code, which may change under the same options: their copies are not cached.
    """
    limit = settings.data.cache_gb
    if not limit or (augments and data.augmentation.others):
        return None
    device, precision = resolve_torch_device(settings.trainer.accelerator), resolve_precision(settings.trainer)
    cache = find_feature_cache(learner, device, precision, data.augmentation if augments else None)
    if reason := cache.reserve(keys, int(limit * 2**30)):
        print_note(f"warning: features are not cached ({reason}); see data.cache_gb")
        return None
    return cache
