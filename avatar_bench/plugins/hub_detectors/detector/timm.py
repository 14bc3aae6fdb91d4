"""Network in a folder as timm saves it, with its own classes and preprocessing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import Options, copy_option, path_option
from avatar_bench.plugins.hub_detectors.detector.onnx import OnnxNetwork

if TYPE_CHECKING:
    from avatar_bench.inference.predictor import DatasetPredictor


@dataclass(kw_only=True)
class TimmModel(Options):
    """Folder with config.json and model.safetensors."""

    folder: str = path_option("of timm or transformers, or hf:OWNER/NAME[@REVISION]", MISSING)
    names: list[str] | None = copy_option(OnnxNetwork, "names")

    def save(self, folder: Path, allow: Collection[str]) -> dict[str, Any]:
        """Copy the network; raise ConfigError or DataError if it cannot be used."""
        from avatar_bench.plugins.hub_detectors.hub_models import copy_model, read_timm_settings

        origin = copy_model(self.folder, folder)
        return origin | read_timm_settings(folder, self.names)

    @staticmethod
    def open(folder: Path, settings: dict[str, Any], accelerator: str, **common: Any) -> DatasetPredictor:
        """Return the predictor of an imported network."""
        from avatar_bench.inference.foreign_predictor import ForeignPredictor
        from avatar_bench.plugins.hub_detectors.hub_models import load_timm_model

        return ForeignPredictor(predictor=load_timm_model(folder, settings, accelerator), **common)
