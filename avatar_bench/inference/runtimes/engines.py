"""Runtimes: ways to compute what one classifier answers, by torch or by an exported network."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_bench.errors import ConfigError

Engine = Callable[[Tensor], NDArray[np.float32]]  # uint8 images (n, 3, S, S) to logits (n, C), when they are there
EXPORTED_RUNTIMES = ("onnx", "openvino")
RUNTIMES = ("torch", "contiguous", "compile", *EXPORTED_RUNTIMES)
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "nncf")}
_EXTRAS = {"onnx": "export", "openvino": "openvino"}


@dataclass(frozen=True)
class ExportedNetwork:
    """A network in the form of a runtime: its graph, for openvino its weights apart, and what is to be told of it."""

    graph: bytes
    weights: bytes = b""
    note: str = ""


def find_missing_package(runtime: str) -> str:
    """Name the first package of its extra that a runtime needs and that is not installed; "" if none."""
    needed = _PACKAGES.get(runtime, ())
    return next((name for name in needed if importlib.util.find_spec(name) is None), "")


def refuse_missing_package(runtime: str, what: str) -> None:
    """Raise ConfigError where a package is missing that `what`, words for an option, needs of a runtime."""
    if absent := find_missing_package(runtime):
        extra = f"pip install 'avatar-bench[{_EXTRAS[runtime]}]'"
        raise ConfigError(f"{what} needs {absent}, which is not installed.", extra)


def prepare_engine(runtime: str, classifier: nn.Module, size: int) -> Callable[[int], Engine]:
    """Give what builds an engine for so many threads; the export, where there is one, is done once.

    "torch" computes as `predict` does; "contiguous" with the channels before the pixels in memory; "compile" by
    torch.compile; "onnx" by onnxruntime and "openvino" by OpenVINO, on the CPU in 32 bits. Raise ConfigError where a
    package is missing.
    """
    refuse_missing_package(runtime, f"The runtime {runtime}")
    if runtime in EXPORTED_RUNTIMES:
        network = export_network(runtime, classifier, size)
        return lambda threads: load_engine(runtime, network, threads)
    if runtime == "contiguous":
        classifier = copy.deepcopy(classifier).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    answer: Any = torch.compile(classifier) if runtime == "compile" else classifier
    return lambda threads: _make_torch_engine(answer)


def export_network(runtime: str, classifier: nn.Module, size: int) -> ExportedNetwork:
    """Give a classifier in the form of a runtime of EXPORTED; its logits alone."""
    if runtime == "onnx":
        return ExportedNetwork(export_onnx(classifier, size))
    from avatar_bench.inference.runtimes import openvino_ir

    return openvino_ir.serialise_network(openvino_ir.convert_network(classifier, size))


def load_engine(runtime: str, network: ExportedNetwork, threads: int, precision: str = "32") -> Engine:
    """Give what computes with an exported network by so many threads."""
    if runtime == "onnx":
        return _make_onnx_engine(network.graph, threads)
    from avatar_bench.inference.runtimes import openvino_ir

    return openvino_ir.make_engine(openvino_ir.read_network(network), threads, precision)


def export_onnx(classifier: nn.Module, size: int, temperature: float | None = None) -> bytes:
    """Export a classifier as an ONNX model that maps `images` (batch, 3, S, S) uint8 to `logits` (batch, C).

    With a temperature, it gives `probabilities` (batch, C) too, the softmax of logits / temperature.
    """
    answer = ExportModule(copy.deepcopy(classifier).cpu(), temperature).eval()
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # of one image, it would take the batch for constant
    with suppress_warnings():
        program = torch.onnx.export(
            answer,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "probabilities"][: 1 if temperature is None else 2],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


class ExportModule(nn.Module):
    """Give the logits of a classifier and, with a temperature, the probabilities."""

    def __init__(self, classifier: nn.Module, temperature: float | None) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits: Tensor = self.classifier(images)[0]
        return (logits,) if self.temperature is None else (logits, torch.softmax(logits / self.temperature, dim=1))


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Keep quiet about an exporter's steps, of which nothing is to be done."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _make_torch_engine(answer: Any) -> Engine:
    def engine(images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(answer(images)[0].float().cpu().numpy())  # which waits for a GPU

    return engine


def _make_onnx_engine(model: bytes, threads: int) -> Engine:
    onnxruntime: Any = importlib.import_module("onnxruntime")  # an extra, which ships no types
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"images": images.cpu().numpy()})[0])
