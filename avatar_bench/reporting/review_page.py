"""Page for the review of predictions: images in order of need, labelled by keyboard, and a manifest of the labels."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import avatar_bench
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.file_names import format_name
from avatar_bench.files.csv_io import format_csv
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.files.html import build_html_environment
from avatar_bench.i18n import _
from avatar_bench.inference.prediction_columns import PredictionColumns
from avatar_bench.reporting.decision_words import name_reasons, phrase_prediction, translate_class
from avatar_bench.reporting.inline_images import InlineImage
from avatar_bench.results.prediction_cautions import list_cautions
from avatar_bench.runs.decision_costs import ABSTAIN
from avatar_bench.runs.decisions import MAX_OOD_PERCENTILE

# images of the random sample that the page asks for: half of them, 50, serve `calibrate` for thresholds of decisions,
# which need 45 answered without an error for a target_error of .05
SAMPLE = 100
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
    columns: Sequence[PredictionColumns] = ()
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
    columns: Sequence[PredictionColumns] = ()

    @property
    def prediction(self) -> str:
        """Return the predicted class, "" if a score has no threshold."""
        return _get_text(self.row, "prediction")

    @property
    def needs(self) -> list[str]:
        """Return those of NEEDS that hold."""
        percentile = self.row.get("ood_percentile")
        is_unlike = percentile is not None and float(percentile) > MAX_OOD_PERCENTILE
        claims = {each.find_claim(self.row) for each in self.columns} - {"", self.prediction}
        found = _get_text(self.row, "decision") == ABSTAIN, is_unlike, bool(claims)
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
    def further(self) -> list[tuple[str, str]]:
        """Return what further columns say, as terms with texts, in the current language."""
        return [pair for each in self.columns for pair in each.describe(self.row)]


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
        cautions=[*content.model, *list_cautions(content.columns)],
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


def _get_text(row: Mapping[Hashable, Any], name: str) -> str:
    return str(row.get(name) or "")
