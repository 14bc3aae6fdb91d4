"""Block data_audit: whether file format, size, colours, visible marks or source of images predict the class."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.audit import probes, shortcuts
from avatar_bench.audit.file_metadata import HINTS
from avatar_bench.audit.properties import APPEARANCE, COLOUR, METADATA, RESIDUAL
from avatar_bench.audit.visible_marks import find_marks
from avatar_bench.config.options import option
from avatar_bench.console.progress import track
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.evaluation.block import warn_unlabelled
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.models.package_features import compute_package_features, has_weights, read_package_recipe
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

PROBE_PROPERTIES = {"metadata": METADATA, "appearance": APPEARANCE, "colour": COLOUR, "residual": RESIDUAL}
_PROPERTY_COLUMNS = ("path", "label", "source", *METADATA, *APPEARANCE, *HINTS, "outlier")
MIN_GROUPS = 5  # per class, to find label errors: with fewer, some folds lack the class
_BATCH, _SIZE = 32, 224


@dataclass(kw_only=True)
class DataAudit(IntervalOptions):
    """Audit of a data set: what separates its classes besides image content, before and after equalising."""

    version: ClassVar[int] = 5

    resamples: int = option(1000, help="of the bootstrap, which draws whole groups", range=(100, None))
    seed: int = option(0, help="of the bootstrap, the folds and the draw", range=(0, None))
    folds: int = option(5, help="of the cross-validation by group", range=(2, None))
    limit: int = option(5000, help="maximum number of images, drawn stratified by class", range=(1, None))
    equalised: bool = option(True, help="audit again after data.equalise=jpeg")
    resize: str = option("squash", help="how images are made square for it", choices=("squash", "crop", "pad"))
    duplicates: bool = option(True, help="search for copies and near-duplicates")
    marks: bool = option(True, help="search for visible marks, such as stamps, that give a class away")
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
        """Compute probes, tables and, in `provenance["assessment"]`, the assessment with its reasons."""
        known = dataset.take(np.flatnonzero(dataset.frame["label"] != ""))
        if not len(known):
            raise DataError(f"{dataset.name}: no image has a known class, so nothing can be audited.")
        drawn = known.take(probes.sample_rows(known.frame, self.limit, self.seed))
        frame, bad = shortcuts.measure_images(drawn)
        result = Result("data_audit", dataset.name, len(frame), drawn.classes)
        result.warnings = warn_unlabelled(len(dataset) - len(known), len(dataset))
        if len(drawn) < len(known):
            result.warnings.append(Reason("sampled", n=len(drawn), all=len(known)))
        if bad:
            result.warnings.append(Reason("undecodable", n=len(bad), all=len(drawn), why=bad[0][1]))
        result.tables = {
            "properties": frame[list(_PROPERTY_COLUMNS)],
            "summary": shortcuts.summarise(frame),
            "confounding": shortcuts.cross_tabulate(frame, "source"),
            "generators": shortcuts.cross_tabulate(frame, "generator"),
            "hints": shortcuts.count_hints(frame),
            "outliers": frame.loc[frame["outlier"] != "", ["path", "label", "source", "outlier"]],
        }
        matches = shortcuts.find_copies(drawn, frame) if self.duplicates else None
        if matches is not None:
            result.tables["duplicates"] = matches
        marks = self._find_marks(result, drawn, frame) if self.marks else []
        probed = self._run_probes(frame) | {"source": probes.probe_source(frame, settings=self._plan)}
        accuracy, balanced = probes.score_majority_class(frame)
        result.metrics = _name_metrics(probed, "")
        result.metrics |= {"majority_accuracy": accuracy, "majority_balanced_accuracy": balanced}
        single = probes.probe_single_properties(frame, [*METADATA, *APPEARANCE], self._plan)
        result.tables["single_properties"] = single
        self._assess(result, frame, matches, marks, prefix="")
        if self.equalised:
            # re-encoding does not remove the source
            again = self._run_probes(shortcuts.measure_images(drawn, self.resize)[0]) | {"source": probed["source"]}
            result.metrics |= _name_metrics(again, "equalised/")
            self._assess(result, frame, matches, marks, prefix="equalised/")
        self._find_label_errors(result, drawn, frame)
        return result

    def compare_sides(
        self, result: Result, training: Dataset, external: Dataset, units: Mapping[str, Sequence[str]]
    ) -> None:
        """Add to a Result what images of training and of an external set share, by name."""
        result.tables[shortcuts.SHARED_TABLE], warnings = shortcuts.compare_provenance(training, external, units)
        result.warnings += warnings

    @property
    def _plan(self) -> probes.ProbeSettings:
        return probes.ProbeSettings(self.folds, self.seed, self.resamples, self.level)

    def _run_probes(self, frame: pd.DataFrame) -> dict[str, probes.ProbeResult]:
        properties = track(PROBE_PROPERTIES.items(), "probe the files", unit="probe")
        probed = {name: probes.probe(frame, columns, self._plan) for name, columns in properties}
        return probed | {"metadata_out_of_sources": probes.probe_out_of_sources(frame, METADATA, self._plan)}

    def _find_marks(self, result: Result, drawn: Dataset, frame: pd.DataFrame) -> list[Reason]:
        """Add tables and crops of marks to a Result; return the reasons for care."""
        findings = find_marks(drawn, frame, self._plan)
        result.tables |= {"marks": findings.table, "patches": findings.patches}
        result.metrics["marks"] = Metric(len(findings.found), len(frame), higher_is_better=False)
        if len(findings.corners):
            result.arrays["corners"] = {"luma": findings.corners.astype(np.float32)}
        if findings.crops:
            result.arrays["crops"] = findings.crops
            result.images = {f"marks/{name}": crop for name, crop in findings.crops.items()}
        return findings.reasons

    def _assess(
        self,
        result: Result,
        frame: pd.DataFrame,
        matches: pd.DataFrame | None,
        marks: Sequence[Reason],
        prefix: str,
    ) -> None:
        """Write the assessment of the set as stored, or after equalising."""
        names = ("metadata_out_of_sources", "metadata", "source")
        file_alone, within, source_alone = (result.metrics[f"{prefix}{name}_auroc"] for name in names)
        file_alone = within if file_alone.value is None else file_alone  # a class has one source
        assessment = shortcuts.assess(frame, file_alone, source_alone, matches, marks)
        result.provenance[f"{prefix}assessment"] = assessment.plain
        if not prefix:
            why = assessment.reasons or Reason("no_problem")
            result.warnings.insert(0, Reason("assessment", answer=Reason(assessment.suitable), why=why))

    def _find_label_errors(self, result: Result, drawn: Dataset, frame: pd.DataFrame) -> None:
        reason = explain_skip(self.features, frame, self.label_errors)
        if reason:
            result.provenance["label_errors"] = reason.plain
            return
        embeddings = compute_features(drawn, frame["row"].to_numpy(), self.features)
        table = find_suspects(embeddings, frame, self._plan)
        result.tables["suspects"] = table
        result.provenance["label_errors"] = Reason("suspects", n=len(table), all=len(frame)).plain


def explain_skip(model: str, frame: pd.DataFrame, fetch: bool | None) -> Reason | None:
    """Return why label errors are not searched for, None if they are.

    `fetch` False: not requested; None: only with what is installed and cached.
    """
    if fetch is False:
        return Reason("not_requested")
    if importlib.util.find_spec("cleanlab") is None:
        return Reason("no_cleanlab")
    groups = frame.groupby("label")["group"].nunique()
    if len(groups) < 2 or groups.min() < MIN_GROUPS:
        return Reason("few_groups_for_labels", n=MIN_GROUPS)
    recipe = _require_recipe(model)
    return Reason("no_weights", model=model) if fetch is None and not has_weights(recipe) else None


def compute_features(dataset: Dataset, rows: NDArray[np.integer], model: str) -> NDArray[np.float32]:
    """Compute pre-logits features (N, D) of the images at `rows` with the package weights of a conf/model entry."""
    from avatar_bench.data.transforms import Preprocessing  # imported here because most audits do not need it

    resize = Preprocessing(_SIZE, "squash", (0, 0, 0), (1, 1, 1))
    starts = track(range(0, len(rows), _BATCH), "features", unit="batch")
    batches = (np.stack([resize(dataset.image(int(row))) for row in rows[start : start + _BATCH]]) for start in starts)
    return compute_package_features(_require_recipe(model), _SIZE, batches)


def find_suspects(features: NDArray[np.float32], frame: pd.DataFrame, plan: probes.ProbeSettings) -> pd.DataFrame:
    """Find images that are probably mislabelled, the likeliest first: path, label, source, suggested, quality.

    `quality` is the probability, 0 to 1, that the features give to the image's label: out-of-fold, by logistic
    regression, cross-validated by group. Confident learning finds labels that contradict these probabilities; labels
    found by both of its rules are returned. Northcutt et al., J. Artif. Intell. Res. 70 (2021).
    """
    from cleanlab.filter import find_label_issues  # type: ignore[import-untyped]
    from cleanlab.rank import get_label_quality_scores  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = frame["label"].astype("category")
    codes = np.asarray(labels.cat.codes, dtype=np.int64)
    learner: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))  # type: ignore[no-untyped-call]
    split: Any = StratifiedGroupKFold(min(plan.folds, MIN_GROUPS), shuffle=True, random_state=plan.seed)  # type: ignore[no-untyped-call]
    chances = cross_val_predict(learner, features, codes, groups=frame["group"], cv=split, method="predict_proba")
    issues = find_label_issues(codes, chances, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1)
    quality = get_label_quality_scores(codes, chances)
    suggested = np.asarray(labels.cat.categories)[chances.argmax(axis=1)]
    table: pd.DataFrame = frame.iloc[issues][["path", "label", "source"]]
    return table.assign(suggested=suggested[issues], quality=quality[issues])


def _require_recipe(model: str) -> dict[str, Any]:
    if recipe := read_package_recipe(model):
        return recipe
    raise ConfigError(
        f"block.data_audit.features={model}: no model of this name has package weights.",
        "Expected efficientnet_lite0 or another with `package` in its conf/model yaml.",
    )


def _name_metrics(probed: dict[str, probes.ProbeResult], prefix: str) -> dict[str, Metric]:
    first = probed["metadata"]  # its AUROC is printed on the terminal
    named = {"metadata_auroc": first.auroc, "metadata_balanced_accuracy": first.balanced_accuracy}
    named |= {f"{name}_auroc": probe.auroc for name, probe in probed.items()}
    for name, probe in probed.items():
        named |= {f"{name}_auroc/{label}": auroc for label, auroc in probe.by_class.items()}
    return {f"{prefix}{name}": metric for name, metric in named.items()}
