"""Predictions on uploaded images, one at a time, with what a page shows of them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from avatar_bench.data.decoding import decode
from avatar_bench.errors import BlockError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.inference.prediction_writer import list_objects
from avatar_bench.metrics.plots import make_thumbnail
from avatar_bench.reporting.grad_cam_overlays import OverlayWriter, name_overlay, read_overlay
from avatar_bench.reporting.inline_images import InlineImage, encode
from avatar_bench.runs.file_predictor import FilePredictor

if TYPE_CHECKING:
    import pandas as pd

SMALL, LARGE = (200, 60), (360, 80)  # longer side and quality of a shown image: one of many, one by one


class BusyError(Exception):
    """A refusal, since too many images wait already, or since one has waited for too long."""


@dataclass(frozen=True)
class ImageAnswer:
    """The row of predict of one image, and what a page shows of it, if it can be read."""

    row: Mapping[Hashable, Any]
    sha256: str = ""
    image: InlineImage | None = None
    overlay: InlineImage | None = None


class ImageService:
    """Predictor of image files for several people at once: images wait in a queue for the only network.

    At most `queue` wait, each for at most `seconds`. With `overlays`, an empty folder, the Grad-CAM of the predicted
    class is shown, if the run is one network with a spatial map.
    """

    def __init__(self, predictor: FilePredictor, overlays: Path | None, queue: int, seconds: float) -> None:
        self.predictor, self.queue, self.seconds = predictor, queue, seconds
        self._overlays = None
        if overlays is not None and "module" in predictor.run.predictor.provides:
            self._overlays = OverlayWriter(predictor.run, overlays)
        self._worker = ThreadPoolExecutor(1)
        self._waiting = 0

    async def predict(self, file: Path, name: str, shown: tuple[int, int] | None = None) -> ImageAnswer:
        """Return the answer on a file, in which `name` is its path; raise BusyError if it would wait too long.

        With `shown`, SMALL or LARGE, it holds the image that a page shows, a LARGE one with its Grad-CAM.
        """
        if self._waiting >= self.queue:
            raise BusyError
        self._waiting += 1
        try:
            task = asyncio.get_running_loop().run_in_executor(self._worker, self._predict, file, name, shown)
            return await asyncio.wait_for(task, self.seconds)
        except TimeoutError as error:
            raise BusyError from error
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread of the network after the image that it works on."""
        self._worker.shutdown(cancel_futures=True)

    def _predict(self, file: Path, name: str, shown: tuple[int, int] | None) -> ImageAnswer:
        (table,) = self.predictor.predict([str(file)])
        (row,) = list_objects(table.assign(path=[name]))
        if not shown or row["status"] != "ok":
            return ImageAnswer(row)
        image = encode(Image.fromarray(make_thumbnail(decode(file), shown[0])), shown[1])
        return ImageAnswer(row, sha256_of_file(file), image, self._draw_overlay(table) if shown == LARGE else None)

    def _draw_overlay(self, table: pd.DataFrame) -> InlineImage | None:
        if self._overlays is None or table["prediction"].isna().any():
            return None
        folder, path = self._overlays.folder, str(table["path"].iat[0])
        try:
            self._overlays.write(table)
            return read_overlay(folder, path)
        except BlockError:  # the network has no spatial map
            self._overlays = None
        finally:
            (folder / name_overlay(path)).unlink(missing_ok=True)
        return None
