"""A page for the review of predictions."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from avatar_bench.data.decoding import decode_bytes, read_bytes
from avatar_bench.data.file_names import find_name_problem, format_name
from avatar_bench.errors import ConfigError, DataError, OutputError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.i18n import use_language
from avatar_bench.inference.file_stamps import Stamp
from avatar_bench.inference.prediction_table import EMBEDDING
from avatar_bench.inference.prediction_writer import PredictionWriter, list_objects
from avatar_bench.metrics.knn import find_nearest
from avatar_bench.reporting.grad_cam_overlays import read_overlay
from avatar_bench.reporting.inline_images import InlineImage, encode
from avatar_bench.reporting.model_accuracy import describe_model
from avatar_bench.reporting.review_page import PageContent, ReviewedImage, render_page, start_row

if TYPE_CHECKING:
    from avatar_bench.runs.file_predictor import FilePredictor

_FEW = 500  # a page of more images has smaller ones
_LARGE, _SMALL, _NEIGHBOUR = (320, 75), (200, 60), (96, 50)  # pixels of the longer side, quality
NEAREST = 3  # training images shown beside an image


class ReviewWriter(PredictionWriter):
    """A writer of a page for review, which is written once all rows are there, or not at all."""

    is_page = True
    marks = (b'class="cards" data-key=',)

    @classmethod
    def open(cls, predictor: FilePredictor, n_files: int, stamps: Mapping[str, Stamp | None]) -> ReviewWriter:
        """Return the writer of a page of `n_files`, for which the training images may be embedded."""
        run, settings = predictor.run, predictor.settings
        first = settings.input[0] if isinstance(settings.input, list) else settings.input
        training = None
        if settings.neighbours:
            if "embeddings" not in run.predictor.provides:
                raise ConfigError(f"neighbours=true: {run.name} computes no embeddings.", "Remove neighbours=true.")
            training = run.dataset("train"), run.training().embeddings
        with use_language(settings.lang):
            model = describe_model(run, predictor.is_calibrated)
        content = PageContent(
            name=os.path.basename(os.path.abspath(first)),
            run=run.name,
            classes=run.classes,
            n_files=n_files,
            language=settings.lang,
            model=model,
            target_error=settings.target_error,
            has_decisions=predictor.rule is not None,
            columns=[*settings.find_columns().values()],
            overlays=Path(settings.explain) if settings.explain else None,
            training=training,
        )
        return cls(Path(settings.output), predictor.columns, content)

    def __init__(self, file: Path, columns: list[str], content: PageContent) -> None:
        super().__init__(None, columns)
        self.file, self.content = file, content
        self._training_images: dict[int, tuple[InlineImage, str, str]] = {}

    def start(self) -> None:
        """Start without rows."""
        self.images: list[ReviewedImage] = []
        self.failed: list[tuple[str, str]] = []

    def write(self, rows: pd.DataFrame) -> None:
        """Collect rows, with the images that the page shows."""
        good = rows[(rows["status"] == "ok").to_numpy()]
        nearest: Sequence[Sequence[int]] = [()] * len(good)
        if self.content.training is not None and len(good):
            embeddings = np.stack(list(good[EMBEDDING]))
            nearest = find_nearest(self.content.training[1], embeddings, NEAREST).tolist()
        found = dict(zip(good.index, nearest, strict=True))
        for index, row in zip(rows.index, list_objects(rows), strict=True):
            path = str(row["path"])
            try:
                if row["status"] != "ok":
                    raise DataError(str(row["reason"]))
                if problem := find_name_problem(os.path.abspath(path)):
                    raise DataError(f"{problem}, so that no manifest can name it: rename the file")
                self.images.append(self._read(path, row, found[index]))
            except DataError as error:
                self.failed.append((format_name(path), str(error).removeprefix(f"{format_name(path)}: ")))
        self.count += len(rows)

    def close(self) -> None:
        """Do nothing: `__exit__` writes the page."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            return
        with use_language(self.content.language):
            page = render_page(self.content, self.images, self.failed)
        try:
            write_text(self.file, page)
        except OSError as error:
            raise OutputError(f"output={self.file} cannot be written: {error.strerror or error}.") from error

    def _read(self, path: str, row: Mapping[Hashable, Any], nearest: Sequence[int]) -> ReviewedImage:
        name, overlays = format_name(path), self.content.overlays
        data = read_bytes(Path(path), name)
        sha256 = sha256_of_bytes(data)
        native = Image.fromarray(decode_bytes(data, name))
        return ReviewedImage(
            row=row,
            sha256=sha256,
            row_start=start_row(os.path.abspath(path), sha256),
            image=_shrink(native, *(_LARGE if self.content.n_files <= _FEW else _SMALL)),
            overlay=read_overlay(overlays, path) if overlays is not None else None,
            nearest=[self._read_training_image(k) for k in nearest],
            columns=self.content.columns,
        )

    def _read_training_image(self, k: int) -> tuple[InlineImage, str, str]:
        assert self.content.training is not None
        dataset = self.content.training[0]
        if k not in self._training_images:  # an image may be near to many
            label, source = map(str, dataset.frame.loc[k, ["label", "source"]])
            self._training_images[k] = _shrink(Image.fromarray(dataset.image(k)), *_NEIGHBOUR), label, source
        return self._training_images[k]


def _shrink(image: Image.Image, side: int, quality: int) -> InlineImage:
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode(image, quality)
