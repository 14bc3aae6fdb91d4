"""Network in an ONNX file, with a statement of how images are passed to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import Options, copy_option, option
from avatar_bench.inference.detectors.predictions import PredictionFile

if TYPE_CHECKING:
    from avatar_bench.inference.predictor import DatasetPredictor

_TRIPLE: dict[str, Any] = {"check": lambda values: values is None or len(values) == 3, "expected": "three numbers"}


@dataclass(kw_only=True)
class OnnxNetwork(Options):
    """Network with its inputs and outputs; what its file states itself needs no option."""

    file: str = copy_option(PredictionFile, "file")
    input: str | None = option(None, help="name of the network's input of images; null: its only one")
    layout: str | None = option(None, help="order of batch, channels, height and width", choices=("NCHW", "NHWC"))
    size: int | None = option(None, help="pixels per side of an image", range=(1, 4096))
    resize: str | None = option(None, help="how images become squares", choices=("squash", "crop", "pad"))
    mean: list[float] | None = option(None, help="of each channel, for values in range", **_TRIPLE)
    std: list[float] | None = option(None, help="of each channel, for values in range", **_TRIPLE)
    range: int | None = option(None, help="largest value of a channel before mean and std", choices=(1, 255))
    output: str | None = option(
        None, help="what the network returns; score: log-odds", choices=("logits", "probabilities", "score")
    )
    names: list[str] | None = option(None, help="class of each output, in order")
    score: str | None = copy_option(PredictionFile, "score", help="what a single output, or the column score, means")
    threshold: float | None = copy_option(PredictionFile, "threshold")

    def save(self, folder: Path, allow: Collection[str]) -> dict[str, Any]:
        """Copy the network; raise ConfigError or DataError if it cannot be used."""
        from avatar_bench.plugins.hub_detectors.onnx_network import import_network

        stated = {name: value for name, value in vars(self).items() if value is not None}
        return import_network(Path(stated.pop("file")), folder, stated, OnnxNetwork)

    @staticmethod
    def open(folder: Path, settings: dict[str, Any], accelerator: str, **common: Any) -> DatasetPredictor:
        """Return the predictor of an imported network."""
        from avatar_bench.inference.foreign_predictor import ForeignPredictor
        from avatar_bench.plugins.hub_detectors.onnx_network import OnnxPredictor

        return ForeignPredictor(predictor=OnnxPredictor(folder, settings, accelerator), **common)
