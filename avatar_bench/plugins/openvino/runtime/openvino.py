"""OpenVINO models of a classifier: conversion, quantisation, serialisation and inference."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_bench.errors import ConfigError
from avatar_bench.inference.runtimes import (
    Engine,
    ExportedNetwork,
    ExportModule,
    explain_failed_export,
    suppress_warnings,
)

OUTPUT_NAMES = ("logits", "probabilities")
_IMAGES_PER_REQUEST = 4  # images per request of a stream, which fit into the cache of a core


def export_network(classifier: nn.Module, size: int) -> ExportedNetwork:
    """Export a classifier, with logits only."""
    return serialise_network(convert_network(classifier, size))


def load_engine(network: ExportedNetwork, threads: int, precision: str) -> Engine:
    """Build an engine for an exported network with a number of threads."""
    return make_engine(read_network(network), threads, precision)


def convert_network(classifier: nn.Module, size: int, temperature: float | None = None) -> Any:
    """Convert a classifier to an OpenVINO model that maps `images` (batch, S, S, 3) uint8 to `logits` (batch, C).

    Channels come last, as in decoded images. With a temperature, the model also returns `probabilities` (batch, C),
    the softmax of logits / temperature. Raises ConfigError if OpenVINO lacks an operation of the network.
    """
    openvino = _import_openvino()
    answer = _ChannelsLast(copy.deepcopy(classifier).cpu(), temperature).eval()
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # with one image, the batch size would become constant
    with suppress_warnings():
        shapes = {"images": {0: torch.export.Dim("batch")}}
        with explain_failed_export():
            program = torch.export.export(answer, (example,), dynamic_shapes=shapes)
        try:
            model = openvino.convert_model(program)
        except openvino.frontend.OpConversionFailure as error:
            lacks = str(error).strip().splitlines()[-1].lstrip("- ")
            raise ConfigError(f"OpenVINO does not support this network: {lacks}.", "Use torch or onnx.") from error
    model.reshape([-1, size, size, 3])
    for port, name in zip([*model.inputs, *model.outputs], ("images", *OUTPUT_NAMES), strict=False):
        port.get_tensor().set_names({name})
    return model


def quantise_network(network: ExportedNetwork, images: Tensor, targets: NDArray[np.int64]) -> ExportedNetwork:
    """Quantise a network of logits to 8 bits by NNCF, with ranges from calibration images.

    `images` is uint8 (n, 3, S, S), `targets` (n,) are their classes. NNCF corrects the biases for the shift by
    rounding. The note states how the quantisation changes the predictions on these images.
    """
    model, pixels = read_network(network), _to_channels_last(images)
    nowhere = io.StringIO()  # for progress bars, and for the log, which stays with the stream at the time of import
    with suppress_warnings(), contextlib.redirect_stdout(nowhere):
        nncf: Any = importlib.import_module("nncf")
        data = nncf.Dataset([pixels[k : k + 1] for k in range(len(pixels))])
        rounded = nncf.quantize(model.clone(), data, subset_size=len(pixels))
    threads = torch.get_num_threads()
    before, after = (make_engine(candidate, threads)(images).argmax(axis=1) for candidate in (model, rounded))
    note = (
        f"precision=int8: {np.sum(before == after)} of {len(pixels)} predictions on the calibration images equal those "
        f"of 32 bits; accuracy {np.mean(after == targets):.1%}, with 32 bits {np.mean(before == targets):.1%}."
    )
    return replace(serialise_network(rounded), note=note)


def serialise_network(model: Any, texts: Mapping[str, str] | None = None) -> ExportedNetwork:
    """Serialise a model to the contents of an .xml and a .bin file, with named texts in its metadata."""
    for name, text in (texts or {}).items():
        model.set_rt_info(text, [name])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.xml"
        _import_openvino().save_model(model, file, compress_to_fp16=False)
        return ExportedNetwork(file.read_bytes(), file.with_suffix(".bin").read_bytes())


def read_network(network: ExportedNetwork) -> Any:
    """Load the model that `serialise_network` returned."""
    return _get_core().read_model(network.graph, network.weights)


def compute_outputs(model: Any, images: Tensor) -> list[NDArray[np.float32]]:
    """Compute all outputs for uint8 images (n, 3, S, S), in 32 bits."""
    compiled = _get_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(_to_channels_last(images)).values())


def make_engine(model: Any, threads: int, precision: str = "32") -> Engine:
    """Build an engine of logits; `precision` is "32", "bf16" or, for a quantised model, "int8"."""
    openvino = _import_openvino()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "THROUGHPUT",  # streams of few threads, each with its own images
        "INFERENCE_NUM_THREADS": threads,
    }
    queue = openvino.AsyncInferQueue(_get_core().compile_model(model, "CPU", settings))

    def compute(images: Tensor) -> NDArray[np.float32]:
        pixels, outputs = _to_channels_last(images), dict[int, NDArray[np.float32]]()
        queue.set_callback(lambda request, first: outputs.update({first: request.get_output_tensor(0).data.copy()}))
        for first in range(0, len(pixels), _IMAGES_PER_REQUEST):
            queue.start_async({0: pixels[first : first + _IMAGES_PER_REQUEST]}, first)
        queue.wait_all()
        return np.concatenate([outputs[first] for first in sorted(outputs)])

    return compute


class _ChannelsLast(ExportModule):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images.permute(0, 3, 1, 2))


def _to_channels_last(images: Tensor) -> NDArray[np.uint8]:
    """Return images (n, 3, S, S) as (n, S, S, 3), without a copy if that is their memory layout."""
    return np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())


@cache
def _get_core() -> Any:
    """Return the only core of the process.

    A core that computes sets a stack for signals, and restores the earlier one when it is deleted: the later of two
    would restore that of the first, which is gone, and the end of a worker process would end this process.
    """
    return _import_openvino().Core()


def _import_openvino() -> Any:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # would report each import to Intel
    with contextlib.redirect_stderr(io.StringIO()):  # absl, which it imports, may close the current stream
        return importlib.import_module("openvino")  # an optional dependency
