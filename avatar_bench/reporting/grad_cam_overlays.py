"""Grad-CAM of predictions on image files, drawn over the images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from avatar_bench.data.decoding import decode
from avatar_bench.data.loaders import to_tensor
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.evaluation.blocks.gradcam.map_overlays import render_overlay
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.files.paths import make_folder_name
from avatar_bench.models.attribution import SpatialLayer, compute_grad_cam, find_spatial_layer
from avatar_bench.reporting.inline_images import InlineImage, encode

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.runs.run import Run

_QUALITY = 70


def name_overlay(path: str) -> str:
    """Return the file name of an image's overlay, which holds the image's own name and depends on its whole path."""
    return f"{make_folder_name(Path(path).stem)[:40]}-{sha256_of_bytes(os.fsencode(path))[:8]}.webp"


def read_overlay(folder: Path, path: str) -> InlineImage:
    """Read the overlay of an image that an OverlayWriter has written."""
    file = folder / name_overlay(path)
    with Image.open(file) as drawn:
        return InlineImage(file.read_bytes(), *drawn.size)


class OverlayWriter:
    """Writer of the Grad-CAM of the predicted class of each image, as the network sees the image, into a folder.

    Raise ConfigError for a run that is not one network, BlockError for a network without a spatial map.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        if "module" not in run.predictor.provides:
            raise ConfigError(f"explain: {run.name} is not one network of torch.", "Remove explain=.")
        self.run, self.folder = run, folder
        self._layer: SpatialLayer | None = None

    def write(self, table: pd.DataFrame) -> None:
        """Write the overlays of a table of predictions; files that cannot be read have none."""
        inputs, rows = [], []
        for path, name in table.loc[table["status"] == "ok", ["path", "prediction"]].itertuples(index=False):
            try:
                inputs.append(to_tensor(self.run.predictor.prepare(decode(Path(path)))))
            except DataError:  # it has gone since it was predicted
                continue
            rows.append((path, self.run.merged_classes[name]))
        if not rows:
            return
        network, images = self.run.predictor.module, torch.stack(inputs)
        self._layer = self._layer or find_spatial_layer(network, images)
        places = {name: index for index, name in enumerate(self.run.card.classes)}
        owned = [[places[row] for row in merged] for _, merged in rows]
        if any(len(row) > 1 for row in owned):  # of a class of a view, the own class that it owes its probability to
            with torch.inference_mode():
                logits = network(images.to(network.device))[0].float().cpu().numpy()
            owned = [[row[int(np.argmax(logit[row]))]] for row, logit in zip(owned, logits, strict=True)]
        maps = compute_grad_cam(network, self._layer, images, np.concatenate(owned))
        for (path, _), image, shown in zip(rows, images.permute(0, 2, 3, 1).numpy(), maps, strict=True):
            with atomic_write(self.folder / name_overlay(path), sync=False) as part:
                part.write_bytes(encode(Image.fromarray(render_overlay(image, shown)), _QUALITY).data)
