"""Block data_audit: whether file format, size, colours or source of images predict the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from avatar_bench.audit import probes
from avatar_bench.audit.properties import APPEARANCE, COLOUR, METADATA, RESIDUAL
from avatar_bench.audit.provenance_hints import HINTS
from avatar_bench.audit.shared_provenance import SHARED_TABLE, compare_provenance
from avatar_bench.audit.shortcuts import assess, count_hints, cross_tabulate, find_copies, measure_images, summarise
from avatar_bench.config.options import option
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import DataError
from avatar_bench.evaluation.block import warn_unlabelled
from avatar_bench.evaluation.blocks.data_audit import label_errors
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

PROBE_PROPERTIES = {"metadata": METADATA, "appearance": APPEARANCE, "colour": COLOUR, "residual": RESIDUAL}
_PROPERTY_COLUMNS = ("path", "label", "source", *METADATA, *APPEARANCE, *HINTS, "outlier")


@dataclass(kw_only=True)
class DataAudit(IntervalOptions):
    """Audit of a data set: what separates its classes besides image content, before and after equalising."""

    version: ClassVar[int] = 3

    resamples: int = option(1000, help="of the bootstrap, which draws whole groups", range=(100, None))
    seed: int = option(0, help="of the bootstrap, the folds and the draw", range=(0, None))
    folds: int = option(5, help="of the cross-validation by group", range=(2, None))
    limit: int = option(5000, help="maximum number of images, drawn stratified by class", range=(1, None))
    equalised: bool = option(True, help="audit again after data.equalise=jpeg")
    resize: str = option("squash", help="how images are made square for it", choices=("squash", "crop", "pad"))
    duplicates: bool = option(True, help="search for copies and near-duplicates")
    label_errors: bool | None = option(
        None,
        help="search for suspected label errors; null: if cleanlab and the weights are installed",
        check=lambda value: value in (None, True, False),
        expected="true, false or null",
    )
    features: str = option(
        "efficientnet_lite0", help="model of conf/model whose package weights compute the features for them"
    )

    def audit(self, dataset: Dataset) -> Result:
        """Compute probes, tables and, in `provenance["assessment"]`, the assessment with its reasons.

        Images without a label are left out. Raise DataError if none has one, or none can be decoded.
        """
        known = dataset.take(np.flatnonzero(dataset.frame["label"] != ""))
        if not len(known):
            raise DataError(f"{dataset.name}: no image has a known class, so nothing can be audited.")
        drawn = known.take(probes.sample_rows(known.frame, self.limit, self.seed))
        frame, bad = measure_images(drawn)
        result = Result("data_audit", dataset.name, len(frame), drawn.classes)
        result.warnings = warn_unlabelled(len(dataset) - len(known), len(dataset))
        if len(drawn) < len(known):
            result.warnings.append(Reason("sampled", n=len(drawn), all=len(known)))
        if bad:
            result.warnings.append(Reason("undecodable", n=len(bad), all=len(drawn), why=bad[0][1]))
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
        found = self._run_probes(frame) | {"source": probes.probe_source(frame, settings=self._plan)}
        accuracy, balanced = probes.score_majority_class(frame)
        result.metrics = _name_metrics(found, "")
        result.metrics |= {"majority_accuracy": accuracy, "majority_balanced_accuracy": balanced}
        single = probes.probe_single_properties(frame, [*METADATA, *APPEARANCE], self._plan)
        result.tables["single_properties"] = single
        self._assess(result, frame, matches, prefix="")
        if self.equalised:
            # re-encoding does not remove the source
            again = self._run_probes(measure_images(drawn, self.resize)[0]) | {"source": found["source"]}
            result.metrics |= _name_metrics(again, "equalised/")
            self._assess(result, frame, matches, prefix="equalised/")
        self._find_label_errors(result, drawn, frame)
        return result

    def compare_sides(
        self, result: Result, training: Dataset, external: Dataset, units: Mapping[str, Sequence[str]]
    ) -> None:
        """Add to a Result what images of training and of an external set share, by name."""
        result.tables[SHARED_TABLE], warnings = compare_provenance(training, external, units)
        result.warnings += warnings

    @property
    def _plan(self) -> probes.ProbeSettings:
        return probes.ProbeSettings(self.folds, self.seed, self.resamples, self.level)

    def _run_probes(self, frame: pd.DataFrame) -> dict[str, probes.ProbeResult]:
        return {name: probes.probe(frame, columns, self._plan) for name, columns in PROBE_PROPERTIES.items()}

    def _assess(self, result: Result, frame: pd.DataFrame, matches: pd.DataFrame | None, prefix: str) -> None:
        """Write the assessment of the set as stored, or after equalising."""
        file_alone, source_alone = (result.metrics[f"{prefix}{name}_auroc"] for name in ("metadata", "source"))
        assessment = assess(frame, file_alone, source_alone, matches)
        result.provenance[f"{prefix}assessment"] = assessment.plain
        if not prefix:
            why = assessment.reasons or Reason("no_problem")
            result.warnings.insert(0, Reason("assessment", answer=Reason(assessment.suitable), why=why))

    def _find_label_errors(self, result: Result, drawn: Dataset, frame: pd.DataFrame) -> None:
        reason = label_errors.explain_skip(self.features, frame, self.label_errors)
        if reason:
            result.provenance["label_errors"] = reason.plain
            return
        embeddings = label_errors.compute_features(drawn, frame["row"].to_numpy(), self.features)
        table = label_errors.find_suspects(embeddings, frame, self._plan)
        result.tables["suspects"] = table
        result.provenance["label_errors"] = Reason("suspects", n=len(table), all=len(frame)).plain


def _name_metrics(found: dict[str, probes.ProbeResult], prefix: str) -> dict[str, Metric]:
    first = found["metadata"]  # its AUROC is printed on the terminal
    named = {"metadata_auroc": first.auroc, "metadata_balanced_accuracy": first.balanced_accuracy}
    named |= {f"{name}_auroc": one.auroc for name, one in found.items()}
    for name, one in found.items():
        named |= {f"{name}_auroc/{label}": auroc for label, auroc in one.by_class.items()}
    return {f"{prefix}{name}": metric for name, metric in named.items()}
