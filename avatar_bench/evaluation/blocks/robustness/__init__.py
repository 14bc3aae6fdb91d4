"""robustness: accuracy of a run on corrupted images and on images re-encoded as web platforms do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data.corruptions import (
    DELIVERY_TIERS,
    RESOLUTIONS,
    SEVERITIES,
    STANDARD_CORRUPTIONS,
    Corruption,
    Delivery,
    Variation,
    list_corruptions,
    list_versions,
)
from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.block import make_columns, read_labelled, tabulate_predictions
from avatar_bench.evaluation.intervals import DIFFERENCE, IntervalOptions, bootstrap_metrics, compute_proportions
from avatar_bench.metrics import classification, plots, stats
from avatar_bench.metrics.classification import bias, fragility, prediction_shifts
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

PredictionsByVariation = Mapping[str, "Predictions"]  # by variation: "clean", "noise/3", "delivery/web"
MEAN_METRICS = ("robustness", "mean_over_severities")


@dataclass(kw_only=True)
class Robustness(IntervalOptions):
    """Accuracy of a run on corrupted and on re-encoded images; means are those of the standard corruptions."""

    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("predictions", "variations", "decisions")

    seed: int = option(0, help="of the bootstrap; noise is seeded by each image's hash", range=(0, None))
    severities: list[int] = option(
        [*SEVERITIES],
        help="any of these; 3, the study's severity, is required",
        choices=SEVERITIES,
        check=lambda chosen: 3 in chosen and len(set(chosen)) == len(chosen),
        expected="some of 1, 2, 3, 4, 5, with 3 among them",
    )
    corruptions: list[str] | None = option(
        None,
        help="some of those that `avatar-bench list corruptions` names; null: all",
        choices=list_corruptions,
        check=lambda chosen: chosen is None or 0 < len(chosen) == len(set(chosen)),
        expected="one or more of those that `avatar-bench list corruptions` names",
    )
    at: str = option(
        "input",
        help="resolution at which they are applied: input (the network's) or native (the image's)",
        choices=RESOLUTIONS,
    )
    delivery: list[str] = option(
        [*DELIVERY_TIERS],
        help="tiers of re-encoding, always at the native resolution; []: none",
        choices=DELIVERY_TIERS,
        check=lambda chosen: len(set(chosen)) == len(chosen),
        expected="each tier once",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.corruptions = list_corruptions() if self.corruptions is None else self.corruptions
        for name in {"clean", *MEAN_METRICS} & set(self.corruptions):
            raise ConfigError(f"block.robustness.corruptions: {name} is the name of a metric; rename your corruption.")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute the accuracy under every variation, its drops, and the one-class test."""
        rows, clean, unlabelled = read_labelled(run, dataset)
        variations = self.list_variations()
        varied = run.variations(dataset, list(variations.values()))
        by_variation = {
            "clean": clean,
            **{name: part.take(rows) for name, part in zip(variations, varied, strict=True)},
        }
        accuracies = self._compute_accuracies(by_variation, floor=1 / len(clean.classes))
        one_class = self._compute_one_class(by_variation)
        result = Result("robustness", dataset.name, len(rows), clean.classes)
        result.metrics = self._collect_metrics(accuracies, self._compute_paired(by_variation), one_class)
        resembled = run.record.resembles
        by_class = [
            {
                "corruption": kind,
                "class": name,
                **make_columns("bias", one_class["bias", kind, name], "bias_"),
                **make_columns("fragility", one_class["fragility", kind, name], "fragility_"),
            }
            for kind, name in product(self.kinds, clean.classes)
        ]
        by_kind = _tabulate_variations(result.metrics, accuracies, variations, len(rows), resembled)
        result.tables = {
            "severities": pd.DataFrame(by_kind["severities"]),
            "recalls": self._tabulate_recalls(by_variation),
            "bias": pd.DataFrame(by_class),
            "one_class": _count_moved_predictions(by_variation, self.kinds),
            "predictions": pd.concat(
                [tabulate_predictions(part).assign(variation=name) for name, part in by_variation.items()],
                ignore_index=True,
            ).drop(columns="source"),
        }
        if self.delivery:
            result.tables["delivery"] = pd.DataFrame(by_kind["delivery"])
        result.arrays["images"] = _select_images(run, dataset, rows, by_variation, variations)
        result.warnings = unlabelled
        counts = np.bincount(clean.targets, minlength=len(clean.classes))
        absent = [name for name, n in zip(clean.classes, counts, strict=True) if not n]
        result.warnings += [Reason("class_absent", name=name) for name in absent]
        if (low := accuracies["clean"].low) is not None and low <= 1 / len(clean.classes):
            result.warnings.append(Reason("clean_near_chance"))
        return result

    def list_variations(self) -> dict[str, Variation]:
        """Return the variations that are evaluated, by name: "noise/3", "delivery/web"."""
        corrupted = {f"{kind}/{k}": Corruption(kind, k, self.at) for kind in self.kinds for k in self.severities}
        return {**corrupted, **{f"delivery/{tier}": Delivery(tier) for tier in self.delivery}}

    @property
    def kinds(self) -> list[str]:
        """Return the corruptions that are applied."""
        return self.corruptions or []

    @property
    def _has_standard_corruptions(self) -> bool:
        return set(STANDARD_CORRUPTIONS) <= set(self.kinds)

    def _compute_accuracies(self, varied: PredictionsByVariation, floor: float | None = None) -> dict[str, Metric]:
        hits = np.column_stack([part.correct for part in varied.values()]).astype(np.float64)
        return dict(zip(varied, compute_proportions(self, hits, varied["clean"].units, floor=floor), strict=True))

    def _collect_metrics(
        self,
        accuracies: Mapping[str, Metric],
        paired: Mapping[str, Metric],
        one_class: Mapping[tuple[str, str, str], Metric],
    ) -> dict[str, Metric]:
        lacking = Metric(None, 0, reason=Reason("needs_all_corruptions"))
        return {
            "robustness": paired.get("robustness", lacking),  # first, as it is the headline metric
            "clean": accuracies["clean"],
            **{kind: accuracies[f"{kind}/3"] for kind in self.kinds},
            "mean_over_severities": paired.get("mean_over_severities", lacking),
            **{name: metric for name, metric in paired.items() if name not in MEAN_METRICS},
            **{name: metric for name, metric in accuracies.items() if name.startswith("delivery/")},
            **{
                f"{what}/{c}": one_class.get((what, "", c), replace(lacking, higher_is_better=value.higher_is_better))
                for (what, kind, c), value in one_class.items()
                if kind == self.kinds[0]
            },
        }

    def _compute_paired(self, varied: PredictionsByVariation) -> dict[str, Metric]:
        """Compute the metrics that compare or average accuracies of the same images."""
        accuracies = stats.build_mean_statistic(np.column_stack([part.correct for part in varied.values()]))

        def derive(accuracy: Floats) -> Floats:
            return np.column_stack(list(self._derive_metrics(dict(zip(varied, accuracy.T, strict=True))).values()))

        names = list(self._derive_metrics(dict.fromkeys(varied, np.ones(1))))
        return bootstrap_metrics(
            self,
            names,
            accuracies.then(derive),
            varied["clean"].units,
            higher_is_better={name: not name.startswith("drop/") for name in names},
            floors=dict.fromkeys(MEAN_METRICS, 1 / len(varied["clean"].classes)),
            reason=Reason("never_correct"),
            bounds=(
                np.array([-1.0 if name.startswith("drop/") else 0.0 for name in names]),
                np.array([np.inf if name.startswith("relative/") else 1.0 for name in names]),
            ),
        )

    def _derive_metrics(self, accuracy: Mapping[str, Floats]) -> dict[str, Floats]:
        """Compute drops, relative accuracies and means (B,) from the accuracy under each variation (B,)."""
        clean = accuracy["clean"]
        kept = {kind: accuracy[f"{kind}/3"] for kind in self.kinds}
        figures: dict[str, Floats] = {}
        if self._has_standard_corruptions:
            standard = [kept[kind] for kind in STANDARD_CORRUPTIONS]
            kept["robustness"] = figures["robustness"] = np.mean(standard, axis=0)
        if self._has_standard_corruptions and len(self.severities) == len(SEVERITIES):
            corrupted = [accuracy[f"{kind}/{k}"] for kind in STANDARD_CORRUPTIONS for k in SEVERITIES]
            figures["mean_over_severities"] = np.mean(corrupted, axis=0)
        kept |= {f"delivery/{tier}": accuracy[f"delivery/{tier}"] for tier in self.delivery}
        figures |= {f"drop/{name}": clean - share for name, share in kept.items()}
        some = np.where(clean > 0, clean, np.nan)
        return figures | {f"relative/{name}": share / some for name, share in kept.items()}

    def _compute_one_class(self, varied: PredictionsByVariation) -> dict[tuple[str, str, str], Metric]:
        """Return the metrics of the one-class test by ("bias" or "fragility", corruption or "" for the mean, class)."""
        clean = varied["clean"]
        pairs = [(clean.targets, varied[name].predicted) for name in ("clean", *(f"{kind}/3" for kind in self.kinds))]

        def measure(tables: Floats) -> Floats:
            columns = list[Floats]()
            moved = {kind: prediction_shifts(tables[:, 0], tables[:, n]) for n, kind in enumerate(self.kinds, start=1)}
            for what in (bias, fragility):
                by_kind = {kind: what(part) for kind, part in moved.items()}
                columns += by_kind.values()
                if self._has_standard_corruptions:
                    columns.append(np.mean([by_kind[kind] for kind in STANDARD_CORRUPTIONS], axis=0))
            return np.concatenate(columns, axis=1)

        kinds = (*self.kinds, "") if self._has_standard_corruptions else self.kinds
        keys = list(product(("bias", "fragility"), kinds, clean.classes))
        names = [repr(key) for key in keys]
        better = {name: None if key[0] == "bias" else False for name, key in zip(names, keys, strict=True)}
        statistic = classification.build_confusion_statistic(pairs, len(clean.classes), measure)
        floors = dict.fromkeys(names, 0.0)
        metrics = bootstrap_metrics(self, names, statistic, clean.units, better, floors, bounds=DIFFERENCE)
        return dict(zip(keys, metrics.values(), strict=True))

    def _tabulate_recalls(self, varied: PredictionsByVariation) -> pd.DataFrame:
        """Return the recall of each class under each variation; absent classes have no row."""
        rows, clean = [], varied["clean"]
        for index, name in enumerate(clean.classes):
            if len(of_class := np.flatnonzero(clean.targets == index)):
                recalls = self._compute_accuracies({kind: part.take(of_class) for kind, part in varied.items()})
                rows += [
                    {"variation": variation, "class": name, **_make_cells("recall", metric, len(of_class))}
                    for variation, metric in recalls.items()
                ]
        return pd.DataFrame(rows)


def _select_images(
    run: Run,
    dataset: Dataset,
    rows: NDArray[np.intp],
    by_variation: PredictionsByVariation,
    variations: Mapping[str, Variation],
) -> dict[str, NDArray[Any]]:
    """Return the image whose error rate is closest to the mean, clean and under all variations."""
    wrong = np.mean([~by_variation[name].correct for name in variations], axis=0)
    typical = int(np.abs(wrong - wrong.mean()).argmin())
    versions = list_versions(dataset, int(rows[typical]), variations.values(), run.predictor.prepare)
    shown = plots.make_thumbnails(versions)
    return {"rows": typical + len(rows) * np.arange(len(by_variation)), **shown}


def _tabulate_variations(
    metrics: Mapping[str, Metric],
    accuracies: Mapping[str, Metric],
    variations: Mapping[str, Variation],
    n: int,
    resembled: Collection[str] | None,
) -> dict[str, list[dict[str, Any]]]:
    """Return accuracy by corruption and severity, clean as severity 0, and by tier of delivery with its drop."""
    clean = {"corruption": "clean", "severity": 0, "parameter": "", **_make_cells("accuracy", accuracies["clean"], n)}
    severities, tiers = [clean], list[dict[str, Any]]()
    for name, case in variations.items():
        cells, key = _make_cells("accuracy", accuracies[name], n), case.kind if isinstance(case, Corruption) else name
        mark = {"resembled": None if resembled is None else key in resembled}
        if isinstance(case, Corruption):
            row = {"corruption": case.kind, "severity": case.severity, "parameter": str(case.parameter)}
            severities.append(row | cells | mark)
        else:
            drop = make_columns("drop", metrics[f"drop/{name}"], "drop_")
            tiers.append({"tier": name.removeprefix("delivery/"), **cells, **drop, **mark})
    return {"severities": severities, "delivery": tiers}


def _count_moved_predictions(varied: PredictionsByVariation, kinds: Sequence[str]) -> pd.DataFrame:
    """Count the predictions for each class's images, clean and when that class is corrupted at severity 3."""
    clean, rows = varied["clean"], []
    for kind in kinds:
        before, after = (
            classification.confusion_matrix(clean.targets, predictions.predicted, len(clean.classes)).astype(int)
            for predictions in (clean, varied[f"{kind}/3"])
        )
        for target, prediction in np.ndindex(before.shape):
            names = clean.classes[target], clean.classes[prediction]
            rows.append((kind, *names, before[target, prediction], after[target, prediction]))
    return pd.DataFrame(rows, columns=["corruption", "transformed", "prediction", "clean", "corrupted"])


def _make_cells(name: str, metric: Metric, n: int) -> dict[str, Any]:
    return {**make_columns(name, metric), "n": n, **metric.inference}
