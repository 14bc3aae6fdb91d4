"""Page for the review of predictions: images in order of need, labelled by keyboard, and a manifest of the labels."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

import avatar_bench
from avatar_bench.console.terminal import format_name
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.decoding import decode_bytes, read_bytes
from avatar_bench.data.folders import find_name_problem
from avatar_bench.errors import ConfigError, DataError, OutputError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_text
from avatar_bench.files.html import build_html_environment
from avatar_bench.files.table_io import format_csv
from avatar_bench.i18n import _, use_language
from avatar_bench.inference.prediction_columns import PredictionColumns
from avatar_bench.inference.prediction_table import EMBEDDING
from avatar_bench.inference.prediction_writer import PredictionWriter, Stamp, list_objects
from avatar_bench.metrics.neighbours import find_nearest
from avatar_bench.reporting.grad_cam_overlays import read_overlay
from avatar_bench.reporting.inline_images import InlineImage, encode
from avatar_bench.reporting.prediction_words import (
    describe_model,
    describe_stability,
    describe_worth,
    name_reasons,
    phrase_prediction,
    translate_class,
    translate_unreadable,
)
from avatar_bench.results.display import list_cautions
from avatar_bench.runs.decisions import ABSTAIN, MAX_OOD_PERCENTILE

if TYPE_CHECKING:
    from avatar_bench.runs.file_predictor import FilePredictor

# images of the random sample that the page asks for: half of them, 50, serve `calibrate` for thresholds of decisions,
# which need 45 answered without an error for a target_error of .05
SAMPLE = 100
NEEDS = "abstained", "unlike", "unstable", "contradicted"  # why an image needs review, the most urgent first
NEAREST = 3  # training images shown beside an image
_FEW = 500  # a page of more images has smaller ones
_LARGE, _SMALL, _NEIGHBOUR = (320, 75), (200, 60), (96, 50)  # pixels of the longer side, quality


@dataclass(frozen=True)
class ReviewedImage:
    """One image of the page, with its row in the table of predictions."""

    row: Mapping[Hashable, Any]
    sha256: str
    image: InlineImage
    columns: Sequence[PredictionColumns]
    overlay: InlineImage | None = None
    nearest: Sequence[tuple[InlineImage, str, str]] = ()  # training images with class and source
    design: Mapping[str, Any] = field(default_factory=dict)  # further columns of the manifest: how it was drawn

    @property
    def prediction(self) -> str:
        """Return the predicted class, "" if a score has no threshold."""
        return _get_text(self.row, "prediction")

    @property
    def needs(self) -> list[str]:
        """Return those of NEEDS that hold."""
        percentile = self.row.get("ood_percentile")
        is_unlike = percentile is not None and float(percentile) > MAX_OOD_PERCENTILE
        claims = {column.find_claim(self.row) for column in self.columns} - {"", self.prediction}
        is_unstable = bool(_get_text(self.row, "flips_on"))
        reasons = _get_text(self.row, "decision") == ABSTAIN, is_unlike, is_unstable, bool(claims)
        return [need for need, holds in zip(NEEDS, reasons, strict=True) if holds]

    @property
    def confidence(self) -> float:
        """Return the largest probability."""
        return max(float(self.row[name]) for name in map(str, self.row) if name.startswith("prob_"))

    @property
    def decision(self) -> str:
        """Return what was decided, and why, in the current language; "" without decisions."""
        decision = _get_text(self.row, "decision")
        reason = name_reasons().get(_get_text(self.row, "decision_reason"), "")
        return f"{_('abstained') if decision == ABSTAIN else translate_class(decision)}: {reason}" if decision else ""


class ReviewWriter(PredictionWriter):
    """A writer of a page for review, which is written once all rows are there, or not at all."""

    is_page = True
    marks = (b'class="cards" data-key=',)

    @classmethod
    def open(cls, predictor: FilePredictor, n_files: int, stamps: Mapping[str, Stamp | None]) -> ReviewWriter:
        """Return the writer of a page of `n_files`, for which the training images may be embedded."""
        return cls(predictor, n_files)

    def __init__(self, predictor: FilePredictor, n_files: int) -> None:
        super().__init__(None, predictor.columns)
        self.predictor, run, settings = predictor, predictor.run, predictor.settings
        self._n_files = n_files
        self._columns = [*settings.find_columns().values()]
        self._training: tuple[Dataset, NDArray[np.floating]] | None = None  # with embeddings (M, D)
        if settings.neighbours:
            if "embeddings" not in run.predictor.provides:
                raise ConfigError(f"neighbours=true: {run.name} computes no embeddings.", "Remove neighbours=true.")
            self._training = run.dataset("train"), run.training().embeddings
        self._training_images: dict[int, tuple[InlineImage, str, str]] = {}

    def start(self) -> None:
        """Start without rows."""
        self.images: list[ReviewedImage] = []
        self.failed: list[tuple[str, str]] = []

    def write(self, rows: pd.DataFrame) -> None:
        """Collect rows, with the images that the page shows."""
        good = rows[(rows["status"] == "ok").to_numpy()]
        nearest: Sequence[Sequence[int]] = [()] * len(good)
        if self._training is not None and len(good):
            nearest = find_nearest(self._training[1], np.stack(list(good[EMBEDDING])), NEAREST).tolist()
        neighbours = dict(zip(good.index, nearest, strict=True))
        for index, row in zip(rows.index, list_objects(rows), strict=True):
            path = str(row["path"])
            try:
                if row["status"] != "ok":
                    raise DataError(str(row["reason"]))
                if problem := find_name_problem(os.path.abspath(path)):
                    raise DataError(f"{problem}, so that no manifest can name it: rename the file")
                self.images.append(self._read(path, row, neighbours[index]))
            except DataError as error:
                self.failed.append((format_name(path), str(error).removeprefix(f"{format_name(path)}: ")))
        self.count += len(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            return
        settings, file = self.predictor.settings, Path(self.predictor.settings.output)
        first = settings.input[0] if isinstance(settings.input, list) else settings.input
        name = os.path.basename(os.path.abspath(first))
        page = render_page(self.predictor, name, settings.lang, self.images, self.failed)
        try:
            write_text(file, page)
        except OSError as error:
            raise OutputError(f"output={file} cannot be written: {error.strerror or error}.") from error

    def _read(self, path: str, row: Mapping[Hashable, Any], nearest: Sequence[int]) -> ReviewedImage:
        name, overlays = format_name(path), self.predictor.settings.explain
        data = read_bytes(Path(path), name)
        return ReviewedImage(
            row,
            sha256_of_bytes(data),
            shrink_for_page(Image.fromarray(decode_bytes(data, name)), self._n_files),
            self._columns,
            read_overlay(Path(overlays), path) if overlays else None,
            [self._read_training_image(k) for k in nearest],
        )

    def _read_training_image(self, k: int) -> tuple[InlineImage, str, str]:
        assert self._training is not None
        dataset = self._training[0]
        if k not in self._training_images:  # an image may be near to many
            label, source = map(str, dataset.frame.loc[k, ["label", "source"]])
            self._training_images[k] = _shrink(Image.fromarray(dataset.image(k)), *_NEIGHBOUR), label, source
        return self._training_images[k]


def render_page(
    predictor: FilePredictor,
    name: str,
    language: str,
    images: Sequence[ReviewedImage],
    failed: Sequence[tuple[str, str]],
    has_paths: bool = True,
) -> str:
    """Return the page on images of this name, in order of need for review, each with a place in a random order.

    Without `has_paths`, images are known by their names alone.
    """
    run, settings = predictor.run, predictor.settings
    parents = [os.path.dirname(os.path.abspath(image.row["path"])) for image in images]
    with use_language(language):
        return render_review(
            images,
            failed,
            run.classes,
            name,
            language,
            model=run.short_name,
            target_error=settings.target_error,
            has_decisions=predictor.rule is not None,
            has_stability=settings.stability,
            worth=describe_worth(run),
            folder=os.path.commonpath(parents) if parents and has_paths else "",
            shows_paths=has_paths,
            cautions=[
                *predictor.guarantees,
                describe_model(run, predictor.is_calibrated),
                *list_cautions(settings.find_columns().values()),
            ],
        )


def render_review(
    images: Sequence[ReviewedImage],
    failed: Sequence[tuple[str, str]],
    classes: Sequence[str],
    name: str,
    language: str,
    *,
    cautions: Sequence[str],
    model: str = "",
    sample: int = SAMPLE,
    target_error: float | None = None,
    has_decisions: bool = True,
    has_stability: bool = False,
    worth: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    folder: str = "",
    shows_paths: bool = False,
    purpose: str = "",
) -> str:
    """Return the page on images, of which a random `sample` is asked for; call it in the language of the page.

    The order depends on the images and classes alone, and so does the key of the labels that the browser keeps, which
    survive another page on the same images. Paths in the manifest are absolute if `shows_paths`, else those of the
    rows. `worth` is that of `describe_worth`. With a `purpose`, all images are to be labelled for it.
    """
    key = sha256_of_text(repr([tuple(classes), [image.sha256 for image in images]]))[:16]
    places = np.random.default_rng(int(key, 16)).permutation(len(images)) + 1
    pairs = sorted(zip(images, places.tolist(), strict=True), key=lambda pair: _rank_need(pair[0]))

    def start_row(image: ReviewedImage) -> str:
        path = str(image.row["path"])
        return _format_cells(
            os.path.abspath(path) if shows_paths else path, image.sha256, *map(str, image.design.values())
        )

    environment = build_html_environment()
    environment.globals |= {"_": _, "phrase": phrase_prediction, "describe_stability": describe_stability}
    environment.filters |= {"class": translate_class, "unreadable": translate_unreadable}
    return environment.get_template("review.html.jinja").render(
        name=name,
        classes=list(classes),
        model=model,
        target_error=target_error,
        has_decisions=has_decisions,
        worth=worth or {},
        has_overlays=any(image.overlay for image in images),
        lang=language,
        key=key,
        pairs=pairs,
        failed=failed,
        folder=format_name(folder),
        shorten=lambda path: format_name(os.path.relpath(os.path.abspath(path), folder) if folder else path),
        start_row=start_row,
        columns=",".join(["path", "sha256", *(images[0].design if images else ())]),
        cells=[_format_cells(name) for name in classes],
        sample=min(sample, len(images)),
        purpose=purpose,
        cautions=cautions,
        needs={
            "abstained": _("abstained"),
            "unlike": _("unlike the training images"),
            **({"unstable": _("unstable")} if has_stability else {}),
            "contradicted": _("the file says otherwise"),
        },
        counts={need: sum(need in image.needs for image in images) for need in NEEDS},
        version=avatar_bench.__version__,
    )


def _rank_need(image: ReviewedImage) -> tuple[int, float]:
    return NEEDS.index(image.needs[0]) if image.needs else len(NEEDS), image.confidence


def _format_cells(*values: str) -> str:
    return format_csv(pd.DataFrame([values]), header=False).removesuffix("\n")


def _get_text(row: Mapping[Hashable, Any], name: str) -> str:
    return str(row.get(name) or "")


def shrink_for_page(image: Image.Image, n_files: int) -> InlineImage:
    """Return an image as large as a page of `n_files` shows it."""
    return _shrink(image, *(_LARGE if n_files <= _FEW else _SMALL))


def _shrink(image: Image.Image, side: int, quality: int) -> InlineImage:
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode(image, quality)
