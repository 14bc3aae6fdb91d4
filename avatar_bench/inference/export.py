"""Exports: one file that holds a network and its card, for use elsewhere."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatar_bench.errors import CheckpointError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.inference.runtimes import engines, openvino_ir
from avatar_bench.models.checkpoint import CARD_KEY, encode_weights
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import PROVENANCE_KEY

TOLERANCE = 1e-4  # of what an exported network answers with torch, absolute below 1, relative above
RUNTIME_OF_SUFFIX = {".onnx": "onnx", ".xml": "openvino"}  # of a kind of file
INPUT_DESCRIPTION = "images: uint8 {shape}, RGB, of the size in preprocessing; mean and std are applied inside"
INPUT_SHAPES = {".onnx": "(N, 3, S, S)", ".xml": "(N, S, S, 3)"}
OUTPUT_DESCRIPTION = "logits (N, C), and probabilities (N, C): the softmax of logits / temperature"


def refuse_missing_runtime(file: Path) -> None:
    """Raise ConfigError where a package is missing that an export to a file of this kind needs."""
    if file.suffix in RUNTIME_OF_SUFFIX:
        engines.refuse_missing_package(RUNTIME_OF_SUFFIX[file.suffix], f"out={file}")


def encode_export(classifier: Classifier, provenance: Mapping[str, Any], kind: str) -> dict[str, bytes]:
    """Give the contents of the files, by ending, that hold a classifier and say what it is; that of `kind` stands last.

    A kind is .safetensors, .onnx, or .xml, whose weights are a .bin file. The weights are called as in timm. Raises
    CheckpointError where an exported network answers otherwise than torch.
    """
    said = {CARD_KEY: classifier.card.plain(), PROVENANCE_KEY: dict(provenance)}
    texts = {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in said.items()}
    if kind == ".onnx":
        return {kind: _encode_onnx(classifier, texts)}
    if kind == ".xml":
        network = _encode_openvino(classifier, texts)
        return {".bin": network.weights, kind: network.graph}
    return {kind: encode_weights(classifier.net, texts)}


def describe_export(
    classifier: Classifier, provenance: Mapping[str, Any], file: Path, contents: Mapping[str, bytes]
) -> str:
    """Give what an export, of the contents that `encode_export` gave, says of itself as JSON to read."""
    told: dict[str, Any] = {"file": file.name, "sha256": sha256_of_bytes(contents[file.suffix])}
    if ".bin" in contents:
        told["weights"] = {"file": file.with_suffix(".bin").name, "sha256": sha256_of_bytes(contents[".bin"])}
    if file.suffix in INPUT_SHAPES:
        told |= {"input": INPUT_DESCRIPTION.format(shape=INPUT_SHAPES[file.suffix]), "outputs": OUTPUT_DESCRIPTION}
    told |= {CARD_KEY: classifier.card.plain(), PROVENANCE_KEY: dict(provenance)}
    return json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_export(data: bytes, file: Path) -> None:
    """Write a file complete or not at all."""
    with atomic_write(file, alone=False) as part:
        part.write_bytes(data)


def _encode_onnx(classifier: Classifier, texts: Mapping[str, str]) -> bytes:
    onnx: Any = importlib.import_module("onnx")  # an extra
    onnxruntime: Any = importlib.import_module("onnxruntime")
    exported = engines.export_onnx(classifier, _image_size(classifier), classifier.card.temperature)
    model = onnx.load_model_from_string(exported)
    onnx.helper.set_model_props(model, dict(texts))
    data: bytes = model.SerializeToString()
    session, images = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]), _make_noise(classifier)
    _refuse_different(classifier, images, session.run(["logits", "probabilities"], {"images": images.numpy()}))
    return data


def _encode_openvino(classifier: Classifier, texts: Mapping[str, str]) -> engines.ExportedNetwork:
    model = openvino_ir.convert_network(classifier, _image_size(classifier), classifier.card.temperature)
    network, images = openvino_ir.serialise_network(model, texts), _make_noise(classifier)
    _refuse_different(classifier, images, openvino_ir.compute_outputs(openvino_ir.read_network(network), images))
    return network


def _make_noise(classifier: Classifier) -> Tensor:
    size, noise = _image_size(classifier), torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=noise)


def _refuse_different(classifier: Classifier, images: Tensor, found: Sequence[NDArray[np.float32]]) -> None:
    """Raise CheckpointError where logits or probabilities of an exported network are not those of torch."""
    with torch.inference_mode():
        logits = classifier(images)[0]
    expected = [logits.numpy(), torch.softmax(logits / classifier.card.temperature, dim=1).numpy()]
    pairs = zip(found, expected, strict=True)
    distance = max(float((np.abs(got - told) / np.maximum(1, np.abs(told))).max()) for got, told in pairs)
    if not distance <= TOLERANCE:
        raise CheckpointError(f"The exported network answers otherwise than torch, by {distance:.2g}.")


def _image_size(classifier: Classifier) -> int:
    return int(classifier.card.preprocessing["size"])
