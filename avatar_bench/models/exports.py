"""Exports: one file that holds a network and its card, for use elsewhere."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.models.checkpoints import CARD_KEY, SEAL, seal_of
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.runtimes import missing, to_onnx
from avatar_bench.writing import whole

AGREEMENT = 1e-4  # of what an exported network answers with torch, absolute below 1, relative above
PROVENANCE = "provenance"  # of the text that says what an export was made from
IMAGES = "images: uint8 (N, 3, S, S), RGB, of the size in preprocessing; mean and std are applied inside"
OUTPUTS = "logits (N, C), and probabilities (N, C): the softmax of logits / temperature"


def refuse_missing(file: Path) -> None:
    """Raise ConfigError where a package is missing that an export to a file of this kind needs."""
    if file.suffix == ".onnx" and (absent := missing("onnx")):
        raise ConfigError(f"out={file} needs {absent}, which is not installed.", "pip install 'avatar-bench[export]'")


def encode(classifier: Classifier, provenance: Mapping[str, Any], kind: str) -> bytes:
    """Give the content of a file of a kind, .safetensors or .onnx, that holds a classifier and says what it is.

    The weights are called as in timm. Raises CheckpointError where an ONNX network answers otherwise than torch.
    """
    said = {CARD_KEY: classifier.card.plain(), PROVENANCE: dict(provenance)}
    texts = {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in said.items()}
    if kind == ".onnx":
        return _onnx(classifier, texts)
    # clones, for safetensors takes no two tensors of one storage
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in classifier.net.state_dict().items()}
    return save(state, texts | {SEAL: seal_of(state, texts)})


def describe(classifier: Classifier, provenance: Mapping[str, Any], file: Path, sha256: str) -> str:
    """Give what an export says of itself as JSON to read."""
    told: dict[str, Any] = {"file": file.name, "sha256": sha256}
    if file.suffix == ".onnx":
        told |= {"input": IMAGES, "outputs": OUTPUTS}
    told |= {CARD_KEY: classifier.card.plain(), PROVENANCE: dict(provenance)}
    return json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(data: bytes, file: Path) -> None:
    """Write a file complete or not at all."""
    with whole(file, alone=False) as part:
        part.write_bytes(data)


def _onnx(classifier: Classifier, texts: Mapping[str, str]) -> bytes:
    onnx: Any = importlib.import_module("onnx")  # an extra
    model = onnx.load_model_from_string(to_onnx(classifier, _size(classifier), classifier.card.temperature))
    onnx.helper.set_model_props(model, dict(texts))
    data: bytes = model.SerializeToString()
    distance = _distance(classifier, data)
    if not distance <= AGREEMENT:
        raise CheckpointError(f"The exported network answers otherwise than torch, by {distance:.2g}.")
    return data


def _distance(classifier: Classifier, model: bytes) -> float:
    """Give how far logits or probabilities of an ONNX model lie from those of torch, at most, on pictures of noise."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    size, noise = _size(classifier), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=noise)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(["logits", "probabilities"], {"images": images.numpy()})
    with torch.inference_mode():
        logits = classifier(images)[0]
    expected = [logits.numpy(), torch.softmax(logits / classifier.card.temperature, dim=1).numpy()]
    pairs = zip(found, expected, strict=True)
    return max(float((np.abs(got - told) / np.maximum(1, np.abs(told))).max()) for got, told in pairs)


def _size(classifier: Classifier) -> int:
    return int(classifier.card.preprocessing["size"])
