"""Features of images by a frozen network whose weights come as an installable package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_bench.config import catalogue
from avatar_bench.console.machine import retain_freed_memory
from avatar_bench.files.document import read_yaml
from avatar_bench.files.package_files import find_archive_folder


def read_package_recipe(model: str) -> dict[str, Any]:
    """Return the `model` part of an entry of conf/model that has package weights; {} for any other name."""
    file = catalogue.find_choices("model").get(model)
    recipe = read_yaml(file)["model"] if file else {}
    return dict(recipe) if recipe.get("package") else {}


def has_weights(recipe: Mapping[str, Any]) -> bool:
    """Return whether the weights of a recipe are in the cache, so that nothing has to be downloaded."""
    package = recipe["package"]
    return find_archive_folder(package["distribution"], package["version"]).is_dir()


def compute_package_features(
    recipe: Mapping[str, Any], size: int, batches: Iterable[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    """Compute pre-logits features (N, D) of batches of RGB images (B, size, size, 3)."""
    import torch  # imported here because it takes seconds, and most commands need no features

    from avatar_bench.models.backbones import create_backbone, get_normalisation
    from avatar_bench.models.batch_norm_folding import fold_batch_norms
    from avatar_bench.models.classifier import Classifier
    from avatar_bench.models.model_card import Card

    retain_freed_memory()

    net: Any = create_backbone(recipe["backbone"], 2, "package", recipe["package"])
    mean, std = get_normalisation(net)
    preprocessing = {"size": size, "resize": "squash", "mean": mean, "std": std}
    classifier = Classifier(Card(("0", "1"), recipe["backbone"], preprocessing), net)  # only its embeddings are read
    folded = fold_batch_norms(classifier.eval().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    with torch.inference_mode():
        outputs = [folded.compute(torch.from_numpy(images).permute(0, 3, 1, 2))[1].numpy() for images in batches]
    return np.concatenate(outputs)
