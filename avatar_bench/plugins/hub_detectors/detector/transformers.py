"""Network in a folder as transformers saves it, with its own classes and image processor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import Options, copy_option
from avatar_bench.plugins.hub_detectors.detector.timm import TimmModel

if TYPE_CHECKING:
    from avatar_bench.inference.predictor import DatasetPredictor


@dataclass(kw_only=True)
class TransformersModel(Options):
    """Folder with config.json, preprocessor_config.json and safetensors."""

    folder: str = copy_option(TimmModel, "folder")

    def save(self, folder: Path, allow: Collection[str]) -> dict[str, Any]:
        """Copy the network; raise ConfigError or DataError if it cannot be used."""
        from avatar_bench.plugins.hub_detectors.hub_models import copy_model, read_transformers_settings

        origin = copy_model(self.folder, folder)
        return origin | read_transformers_settings(folder)

    @staticmethod
    def open(folder: Path, settings: dict[str, Any], accelerator: str, **common: Any) -> DatasetPredictor:
        """Return the predictor of an imported network."""
        from avatar_bench.inference.foreign_predictor import ForeignPredictor
        from avatar_bench.plugins.hub_detectors.hub_models import load_transformers_model

        return ForeignPredictor(predictor=load_transformers_model(folder, settings, accelerator), **common)
