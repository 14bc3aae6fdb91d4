"""Block data_audit: whether file format, size, colours or source of images predict the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avatar_bench.audit.assessment import Assessment, translate_suitability
from avatar_bench.audit.content_credentials import HINTS
from avatar_bench.audit.probes import (
    ProbeResult,
    ProbeSettings,
    probe,
    probe_single_properties,
    probe_source,
    sample_rows,
    score_majority_class,
)
from avatar_bench.audit.properties import APPEARANCE, COLOUR, METADATA, RESIDUAL
from avatar_bench.audit.shortcuts import (
    assess,
    count_hints,
    cross_tabulate,
    find_copies,
    measure_images,
    summarise,
)
from avatar_bench.config.options import Options
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.evaluation.block import warn_unlabelled
from avatar_bench.evaluation.blocks.data_audit import figures, label_errors
from avatar_bench.i18n import _, list_languages, use_language
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset

PROBE_PROPERTIES = {"metadata": METADATA, "appearance": APPEARANCE, "colour": COLOUR, "residual": RESIDUAL}
_PROPERTY_COLUMNS = ("path", "label", "source", *METADATA, *APPEARANCE, *HINTS, "outlier")


@dataclass(kw_only=True)
class DataAudit(Options):
    """Audit of a data set: what separates its classes besides image content, before and after equalising.

    `level` of the intervals, 0 to 1; `resamples` and `seed` of the bootstrap; `folds` of the cross-validation; `limit`,
    the maximum number of images; `equalised`: audit again after equalising, with `resize` making images square;
    `duplicates`: search for copies; `label_errors`: true, false, or null (if cleanlab and the weights of `features`, a
    model of conf/model with package weights, are present).
    """

    level: float = 0.95
    resamples: int = 1000
    seed: int = 0
    folds: int = 5
    limit: int = 5000
    equalised: bool = True
    resize: str = "squash"
    duplicates: bool = True
    label_errors: bool | None = None
    features: str = "efficientnet_lite0"

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("level", 0 < self.level < 1, "above 0 and below 1"),
            ("resamples", self.resamples >= 100, "100 or more"),
            ("folds", self.folds >= 2, "2 or more"),
            ("limit", self.limit >= 1, "1 or more"),
            ("resize", self.resize in ("squash", "crop", "pad"), "squash, crop or pad"),
        ):
            if not valid:
                raise ConfigError(f"block.data_audit.{name}={getattr(self, name)}: expected {expected}.")

    def audit(self, dataset: Dataset) -> Result:
        """Compute probes, tables, figures and, in `provenance["assessment"]`, the assessment with its reasons.

        Images without a label are left out. Raise DataError if none has one, or none can be decoded.
        """
        known = dataset.take(np.flatnonzero(dataset.frame["label"] != ""))
        if not len(known):
            raise DataError(f"{dataset.name}: no image has a known class, so nothing can be audited.")
        drawn = known.take(sample_rows(known.frame, self.limit, self.seed))
        frame, bad = measure_images(drawn)
        result = Result("data_audit", dataset.name, len(frame), drawn.classes)
        result.warnings = _collect_warnings(dataset, known, drawn, bad)
        result.tables = {
            "properties": frame[list(_PROPERTY_COLUMNS)],
            "summary": summarise(frame),
            "confounding": cross_tabulate(frame, "source"),
            "generators": cross_tabulate(frame, "generator"),
            "hints": count_hints(frame),
            "outliers": frame.loc[frame["outlier"] != "", ["path", "label", "source", "outlier"]],
        }
        matches = find_copies(drawn, frame) if self.duplicates else None
        if matches is not None:
            result.tables["duplicates"] = matches
        self._run_probes(result, frame)
        self._assess(result, frame, matches, prefix="")
        if self.equalised:
            self._run_equalised_probes(result, drawn)
            self._assess(result, frame, matches, prefix="equalised/")
        self._find_label_errors(result, drawn, frame)
        self._draw_figures(result, frame)
        return result

    @property
    def _plan(self) -> ProbeSettings:
        return ProbeSettings(self.folds, self.seed, self.resamples, self.level)

    def _run_probes(self, result: Result, frame: pd.DataFrame) -> None:
        found = {name: probe(frame, columns, self._plan) for name, columns in PROBE_PROPERTIES.items()}
        found["source"] = probe_source(frame, settings=self._plan)
        accuracy, balanced = score_majority_class(frame)
        result.metrics |= _name_metrics(found, "")
        result.metrics |= {"majority_accuracy": accuracy, "majority_balanced_accuracy": balanced}
        result.tables["single_properties"] = probe_single_properties(frame, [*METADATA, *APPEARANCE], self._plan)

    def _run_equalised_probes(self, result: Result, drawn: Dataset) -> None:
        frame, __ = measure_images(drawn, self.resize)
        found = {name: probe(frame, columns, self._plan) for name, columns in PROBE_PROPERTIES.items()}
        result.metrics |= _name_metrics(found, "equalised/")
        # re-encoding does not remove the source
        source_metrics = {name: metric for name, metric in result.metrics.items() if name.startswith("source_auroc")}
        result.metrics |= {f"equalised/{name}": metric for name, metric in source_metrics.items()}

    def _assess(self, result: Result, frame: pd.DataFrame, matches: pd.DataFrame | None, prefix: str) -> None:
        """Write the assessment of the set as stored, or after equalising."""
        file_alone, source_alone = (result.metrics[f"{prefix}{name}_auroc"] for name in ("metadata", "source"))
        assessment = assess(frame, file_alone, source_alone, matches)
        reasons = {}
        for name in list_languages():
            with use_language(name):
                reasons[name] = assess(frame, file_alone, source_alone, matches).reasons
        stated = {"suitable": assessment.suitable, "reasons": reasons.pop("en"), "reasons_in": reasons}
        result.provenance[f"{prefix}assessment"] = stated
        if not prefix:
            result.warnings = [_format_assessment(assessment), *result.warnings]

    def _find_label_errors(self, result: Result, drawn: Dataset, frame: pd.DataFrame) -> None:
        reason = label_errors.explain_skip(self.features, frame, self.label_errors)
        if reason:
            result.provenance["label_errors"] = reason
            return
        embeddings = label_errors.compute_features(drawn, frame["row"].to_numpy(), self.features)
        table = label_errors.find_suspects(embeddings, frame, self._plan)
        result.tables["suspects"] = table
        result.provenance["label_errors"] = _(
            "{n} of {all} labels may be incorrect: see table suspects", n=len(table), all=len(frame)
        )

    def _draw_figures(self, result: Result, frame: pd.DataFrame) -> None:
        result.figures["properties"] = figures.draw_properties(frame, result.classes)
        result.figures["confounding"] = figures.draw_sources(result.tables["confounding"], result.classes)
        if result.metrics["metadata_auroc"].value is not None:
            groups = result.metrics["metadata_auroc"].n
            result.figures["aurocs"] = figures.draw_aurocs(result.metrics, [*PROBE_PROPERTIES, "source"])
            result.figures["single_properties"] = figures.draw_property_aurocs(
                result.tables["single_properties"], groups
            )


def _name_metrics(found: dict[str, ProbeResult], prefix: str) -> dict[str, Metric]:
    aurocs = {f"{prefix}{name}_auroc": one.auroc for name, one in found.items()}
    first = f"{prefix}metadata_auroc"  # the first metric is printed on the terminal
    return {
        first: aurocs[first],
        f"{prefix}metadata_balanced_accuracy": found["metadata"].balanced_accuracy,
        **aurocs,
        **{
            f"{prefix}{kind}_auroc/{name}": auroc for kind, one in found.items() for name, auroc in one.by_class.items()
        },
    }


def _collect_warnings(dataset: Dataset, known: Dataset, drawn: Dataset, bad: list[tuple[str, str]]) -> list[str]:
    messages = warn_unlabelled(len(dataset) - len(known), len(dataset))
    if len(drawn) < len(known):
        messages.append(_("{n} of {all} images are used, in the same class proportions", n=len(drawn), all=len(known)))
    if bad:
        messages.append(
            _("{n} of {all} images cannot be decoded; first: {why}", n=len(bad), all=len(drawn), why=bad[0][1])
        )
    return messages


def _format_assessment(assessment: Assessment) -> str:
    return _(
        "is this set suitable for evaluating classifiers? {answer}: {why}",
        answer=translate_suitability(assessment.suitable),
        why="; ".join(assessment.reasons) or _("no problem found"),
    )
