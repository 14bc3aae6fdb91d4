"""The cache of embeddings that a network's frozen body has computed, shared by training and evaluation."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import PIL
import timm
import torch

from avatar_bench import __version__
from avatar_bench.config.catalogue import find_choices
from avatar_bench.data.cache import ArrayCache
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.files.paths import cache_root
from avatar_bench.models.checkpoint import hash_weights
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.wrapped_networks import NetworkNode

FEATURES_FOLDER = "features"  # in the cache


def find_feature_cache(classifier: Classifier, device: str, precision: str, augmentation: Any = None) -> ArrayCache:
    """Return the cache of the embeddings of a network, float32 (D,), by the SHA-256 of the image file.

    Its folder depends on all that they depend on but the image: not on the classifier's last layer, which probes fit.
    `precision` is Lightning's name, such as 32-true.
    """
    card, head = classifier.card, classifier.net.get_classifier()  # type: ignore[operator]
    backbones = find_choices("backbone").get(card.backbone)
    heads = {id(parameter) for parameter in head.parameters()}
    names = {name for name, parameter in classifier.net.named_parameters() if id(parameter) in heads}
    body = {name: tensor for name, tensor in classifier.net.state_dict().items() if name not in names}
    how = [
        *(hash_weights(body), card.backbone, sorted(card.options.items()), sorted(card.preprocessing.items())),
        *(device, precision, augmentation),
        NetworkNode.read(backbones).sha256 if backbones else None,
        *(__version__, torch.__version__, timm.__version__, PIL.__version__, cv2.__version__),
    ]
    folder = cache_root() / FEATURES_FOLDER / sha256_of_text(repr(how))[:16]
    return ArrayCache(folder, (int(head.in_features),), np.float32)
