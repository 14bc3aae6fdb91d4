"""Features of images by a frozen network whose weights come as an installable package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_bench.config import catalogue
from avatar_bench.files.package_files import find_archive_folder
from avatar_bench.files.yaml_io import read_yaml


def read_package_recipe(model: str) -> dict[str, Any]:
    """Return the `model` part of an entry of conf/model that has package weights; {} for any other name."""
    file = catalogue.find_choices("model").get(model)
    recipe = read_yaml(file)["model"] if file else {}
    return dict(recipe) if recipe.get("package") else {}


def has_weights(recipe: Mapping[str, Any]) -> bool:
    """Return whether the weights of a recipe are in the cache, so that nothing has to be downloaded."""
    package = recipe["package"]
    return find_archive_folder(package["distribution"], package["version"]).is_dir()


def compute_package_features(recipe: Mapping[str, Any], batches: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Compute pre-logits features (N, D) of batches of images, (B, H, W, 3) RGB."""
    import torch  # imported here because it takes seconds, and most commands need no features

    from avatar_bench.models.backbones import create_backbone, get_normalisation

    net: Any = create_backbone(recipe["backbone"], 2, "package", recipe["package"]).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in get_normalisation(net))
    outputs = []
    with torch.inference_mode():
        for images in batches:
            batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            outputs.append(net.forward_head(net.forward_features((batch - mean) / std), pre_logits=True).numpy())
    return np.concatenate(outputs)
