"""Page for the review of predictions: images in order of need, labelled by keyboard, and a manifest of the labels."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

import avatar_bench
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.decoding import decode_bytes, read_bytes
from avatar_bench.data.evidence.evidence_rules import EVIDENCE, EVIDENCE_SAYS, MODERATE, NONE, STRONG, WEAK
from avatar_bench.data.file_names import find_name_problem, format_name
from avatar_bench.errors import DataError, OutputError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.csv_io import format_csv
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_text
from avatar_bench.files.html import build_html_environment
from avatar_bench.i18n import _, use_language
from avatar_bench.inference.prediction_table import EMBEDDING
from avatar_bench.inference.prediction_writer import PredictionWriter, list_objects
from avatar_bench.metrics.knn import find_nearest
from avatar_bench.reporting.decision_words import name_reasons, phrase_prediction, translate_class
from avatar_bench.reporting.grad_cam_overlays import read_overlay
from avatar_bench.reporting.inline_images import InlineImage, encode
from avatar_bench.results.prediction_cautions import list_cautions
from avatar_bench.runs.decision_costs import ABSTAIN
from avatar_bench.runs.decisions import MAX_OOD_PERCENTILE

# images of the random sample that the page asks for: half of them, 50, serve `calibrate` for thresholds of decisions,
# which need 45 answered without an error for a target_error of .05
SAMPLE = 100
_FEW = 500  # a page of more images has smaller ones
_LARGE, _SMALL, _NEIGHBOUR = (320, 75), (200, 60), (96, 50)  # pixels of the longer side, quality
NEAREST = 3  # training images shown beside an image
NEEDS = "abstained", "unlike", "contradicted"  # why an image needs review, the most urgent first


@dataclass(frozen=True)
class PageContent:
    """What a page for review shows beside the images.

    `model` says how accurate it is, `n_files` are to come, `overlays` is the folder of their Grad-CAM. Without
    `has_paths`, images are known by their names alone. Of the `training` images, with embeddings (M, D), the nearest
    are shown.
    """

    name: str
    run: str
    classes: tuple[str, ...]
    n_files: int
    language: str
    model: Sequence[str] = ()
    has_paths: bool = True
    target_error: float | None = None
    has_decisions: bool = False
    has_evidence: bool = False
    overlays: Path | None = None
    training: tuple[Dataset, NDArray[np.floating]] | None = None


@dataclass(frozen=True)
class ReviewedImage:
    """One image of the page, with its row in the table of predictions; `row_start` begins its row of the manifest."""

    row: Mapping[Hashable, Any]
    sha256: str
    row_start: str
    image: InlineImage
    overlay: InlineImage | None
    nearest: Sequence[tuple[InlineImage, str, str]]  # training images with class and source

    @property
    def prediction(self) -> str:
        """Return the predicted class, "" if a score has no threshold."""
        return _get_text(self.row, "prediction")

    @property
    def needs(self) -> list[str]:
        """Return those of NEEDS that hold."""
        percentile, says = self.row.get("ood_percentile"), _get_text(self.row, EVIDENCE_SAYS)
        is_unlike = percentile is not None and float(percentile) > MAX_OOD_PERCENTILE
        found = _get_text(self.row, "decision") == ABSTAIN, is_unlike, bool(says) and says != self.prediction
        return [need for need, holds in zip(NEEDS, found, strict=True) if holds]

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

    @property
    def possible(self) -> list[str]:
        """Return the classes of the prediction set."""
        return [name for name in _get_text(self.row, "prediction_set").split("|") if name]

    @property
    def evidence(self) -> list[tuple[str, str, str]]:
        """Return rule, value and strength, in the current language, of each piece of evidence in the file."""
        strengths = {STRONG: _("strong"), MODERATE: _("moderate"), WEAK: _("weak"), NONE: _("says no class")}
        found = json.loads(_get_text(self.row, EVIDENCE) or "[]")
        return [(each["rule"], format_name(each["value"]), strengths[each["strength"]]) for each in found]

    @property
    def says(self) -> str:
        """Return the class that the file says, "" for none."""
        return _get_text(self.row, EVIDENCE_SAYS)


class ReviewWriter(PredictionWriter):
    """A writer of a page for review, which is written once all rows are there, or not at all."""

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
        )

    def _read_training_image(self, k: int) -> tuple[InlineImage, str, str]:
        assert self.content.training is not None
        dataset = self.content.training[0]
        if k not in self._training_images:  # an image may be near to many
            label, source = map(str, dataset.frame.loc[k, ["label", "source"]])
            self._training_images[k] = _shrink(Image.fromarray(dataset.image(k)), *_NEIGHBOUR), label, source
        return self._training_images[k]


def start_row(path: str, sha256: str) -> str:
    """Return the beginning of an image's row of the manifest."""
    return format_csv(pd.DataFrame([[path, sha256]]), header=False).removesuffix("\n")


def render_page(content: PageContent, images: Sequence[ReviewedImage], failed: Sequence[tuple[str, str]]) -> str:
    """Return the page in the current language: images in order of need for review, each with a place in a random order.

    The order depends on the images and classes alone, and so does the key of the labels that the browser keeps, which
    survive another page on the same images.
    """
    key = sha256_of_text(repr([content.classes, [one.sha256 for one in images]]))[:16]
    places = np.random.default_rng(int(key, 16)).permutation(len(images)) + 1
    pairs = sorted(zip(images, places.tolist(), strict=True), key=lambda pair: _rank_need(pair[0]))
    parents = [os.path.dirname(os.path.abspath(one.row["path"])) for one in images]
    folder = os.path.commonpath(parents) if parents and content.has_paths else ""
    environment = build_html_environment()
    environment.globals |= {"_": _, "phrase": phrase_prediction}
    environment.filters["class"] = translate_class
    cells = [format_csv(pd.DataFrame([[name]]), header=False).removesuffix("\n") for name in content.classes]
    return environment.get_template("review.html.jinja").render(
        content=content,
        lang=content.language,
        key=key,
        pairs=pairs,
        failed=failed,
        folder=format_name(folder),
        shorten=lambda path: format_name(os.path.relpath(os.path.abspath(path), folder) if folder else path),
        cells=cells,
        sample=min(SAMPLE, len(images)),
        cautions=[*content.model, *list_cautions(content.has_evidence)],
        needs={
            "abstained": _("abstained"),
            "unlike": _("unlike the training images"),
            "contradicted": _("the file says otherwise"),
        },
        counts={need: sum(need in one.needs for one in images) for need in NEEDS},
        version=avatar_bench.__version__,
    )


def _rank_need(one: ReviewedImage) -> tuple[int, float]:
    return NEEDS.index(one.needs[0]) if one.needs else len(NEEDS), one.confidence


def _shrink(image: Image.Image, side: int, quality: int) -> InlineImage:
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode(image, quality)


def _get_text(row: Mapping[Hashable, Any], name: str) -> str:
    return str(row.get(name) or "")
