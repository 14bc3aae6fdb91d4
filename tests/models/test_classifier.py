"""The classifier: one pass for logits and embeddings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avatar_bench.catalogue import choices
from avatar_bench.models.card import Card
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.weights import create_backbone

MODELS = [name for name in choices("model") if name != "timm"]
PREPROCESSING = {"size": 32, "resize": "squash", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
CARD = Card(classes=("a", "b", "c"), backbone="test_resnet", preprocessing=PREPROCESSING)


def images(n: int = 4, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalised(batch: Tensor) -> Tensor:
    mean, std = (np.array(PREPROCESSING[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    return torch.from_numpy((batch.numpy() / 255 - mean) / std).float()


@pytest.mark.parametrize("model", MODELS)
def test_one_pass_gives_the_networks_own_logits_and_their_embeddings(model: str, network: Callable[[str], Any]) -> None:
    net = network(model).eval()
    classifier = Classifier(CARD, net).eval()
    batch = images(2, 64)
    with torch.inference_mode():
        logits, embeddings = classifier(batch)
        torch.testing.assert_close(logits, net(normalised(batch)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net.get_classifier()(embeddings), logits)
    assert logits.shape == (2, 3)
    assert embeddings.shape == (2, net.get_classifier().in_features)


def test_a_transformer_gives_both_too() -> None:
    net = create_backbone("test_vit", 3, options={"img_size": 32}).eval()
    with torch.inference_mode():
        logits, embeddings = Classifier(CARD, net).eval()(images())
        torch.testing.assert_close(logits, net(normalised(images())), rtol=1e-4, atol=1e-4)
    assert embeddings.shape == (4, 64)


def test_channels_last_changes_no_logit() -> None:
    plain = Classifier(CARD, create_backbone("test_resnet", 3)).eval()
    other = copy.deepcopy(plain)
    other.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        torch.testing.assert_close(plain(images())[0], other(images())[0], rtol=1e-4, atol=1e-5)
