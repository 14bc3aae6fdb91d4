"""Tensors named as in timm, with the card in the metadata of the file."""

from __future__ import annotations

from collections.abc import Mapping

from avatar_bench.models.checkpoint import encode_weights
from avatar_bench.models.classifier import Classifier


def encode(classifier: Classifier, texts: Mapping[str, str]) -> dict[str, bytes]:
    """Return the file."""
    return {".safetensors": encode_weights(classifier.net, texts)}
