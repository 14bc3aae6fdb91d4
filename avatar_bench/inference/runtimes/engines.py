"""Engines that compute the logits of a classifier by torch or by an exported network."""

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

Engine = Callable[[Tensor], NDArray[np.float32]]  # uint8 images (n, 3, S, S) to logits (n, C), returned once computed
EXPORTED_RUNTIMES = ("onnx", "openvino")
RUNTIMES = ("torch", "contiguous", "compile", *EXPORTED_RUNTIMES)
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "nncf")}
_EXTRAS = {"onnx": "export", "openvino": "openvino"}


@dataclass(frozen=True)
class ExportedNetwork:
    """A network in the format of a runtime: its graph, separate weights for openvino, and a note for the user."""

    graph: bytes
    weights: bytes = b""
    note: str = ""


def find_missing_package(runtime: str) -> str:
    """Return the first package that a runtime needs and that is not installed, or ""."""
    needed = _PACKAGES.get(runtime, ())
    return next((name for name in needed if importlib.util.find_spec(name) is None), "")


def refuse_missing_package(runtime: str, what: str) -> None:
    """Raise ConfigError if a package of a runtime is missing; `what` describes the option that needs it."""
    if absent := find_missing_package(runtime):
        extra = f"pip install 'avatar-bench[{_EXTRAS[runtime]}]'"
        raise ConfigError(f"{what} needs {absent}, which is not installed.", extra)


def prepare_engine(runtime: str, classifier: nn.Module, size: int) -> Callable[[int], Engine]:
    """Return a function that builds an engine for a number of threads; exports the network once if needed.

    "torch" computes as `predict` does; "contiguous" uses the channels-first memory format; "compile" uses
    torch.compile; "onnx" uses onnxruntime and "openvino" OpenVINO, on the CPU in 32 bits. Raises ConfigError if a
    package is missing.
    """
    refuse_missing_package(runtime, f"The runtime {runtime}")
    if runtime in EXPORTED_RUNTIMES:
        network = export_network(runtime, classifier, size)
        return lambda threads: load_engine(runtime, network, threads)
    if runtime == "contiguous":
        classifier = copy.deepcopy(classifier).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    answer: Any = torch.compile(classifier) if runtime == "compile" else classifier

    def compute(images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(answer(images)[0].float().cpu().numpy())  # waits for a GPU

    return lambda threads: compute


def export_network(runtime: str, classifier: nn.Module, size: int) -> ExportedNetwork:
    """Export a classifier, with logits only, to the format of a runtime in EXPORTED_RUNTIMES."""
    if runtime == "onnx":
        return ExportedNetwork(export_onnx(classifier, size))
    from avatar_bench.inference.runtimes import openvino_ir

    return openvino_ir.serialise_network(openvino_ir.convert_network(classifier, size))


def load_engine(runtime: str, network: ExportedNetwork, threads: int, precision: str = "32") -> Engine:
    """Build an engine for an exported network with a number of threads."""
    if runtime == "onnx":
        onnxruntime: Any = importlib.import_module("onnxruntime")  # an optional dependency without types
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(network.graph, options, providers=["CPUExecutionProvider"])
        return lambda images: np.asarray(session.run(None, {"images": images.cpu().numpy()})[0])
    from avatar_bench.inference.runtimes import openvino_ir

    return openvino_ir.make_engine(openvino_ir.read_network(network), threads, precision)


def export_onnx(classifier: nn.Module, size: int, temperature: float | None = None) -> bytes:
    """Export a classifier as an ONNX model that maps `images` (batch, 3, S, S) uint8 to `logits` (batch, C).

    With a temperature, the model also returns `probabilities` (batch, C), the softmax of logits / temperature, and
    `embeddings` (batch, D).
    """
    answer = ExportModule(copy.deepcopy(classifier).cpu(), temperature, embeds=temperature is not None).eval()
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # with one image, the batch size would become constant
    with suppress_warnings(), explain_failed_export():
        program = torch.onnx.export(
            answer,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "probabilities", "embeddings"][: 1 if temperature is None else 3],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
        assert program is not None
        shape: Any = program.model.graph.inputs[0].shape
        assert not isinstance(shape[0], int), "its code fixes the number of images."
    return bytes(program.model_proto.SerializeToString())


@contextmanager
def explain_failed_export() -> Iterator[None]:
    """Raise ConfigError if torch cannot export the code of a network, such as a user's, inside the `with`."""
    try:
        yield
    except Exception as error:  # torch raises many types
        raise ConfigError(
            f"The network cannot be exported: {(str(error) or type(error).__name__).splitlines()[0]}",
            "Its code must work for any number of images: use x.shape[0], not len(x).",
        ) from error


class ExportModule(nn.Module):
    """A classifier that returns logits and, with a temperature, probabilities, then embeddings if it `embeds`."""

    def __init__(self, classifier: nn.Module, temperature: float | None, embeds: bool = False) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature = temperature
        self.embeds = embeds

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, embeddings = self.classifier(images)
        probabilities = () if self.temperature is None else (torch.softmax(logits / self.temperature, dim=1),)
        return (logits, *probabilities, *([embeddings] if self.embeds else []))


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress log messages and warnings of an exporter, none of which needs action."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
