"""marks: predictions that a visible mark moves to one class, and the accuracy that masked corners cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data.corruptions import Variation, list_versions
from avatar_bench.data.mask import Erasure
from avatar_bench.data.stamps import POSITIONS, STAMPS, Marking
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import make_columns, read_labelled, tabulate_predictions
from avatar_bench.evaluation.intervals import DIFFERENCE, IntervalOptions, bootstrap_metrics, compute_proportions
from avatar_bench.metrics import plots
from avatar_bench.metrics.stats import Floats, build_mean_statistic
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

ALL_CLASSES, ANY_STAMP = "(all)", "(any)"  # rows of a table
_UP_TO_1: Any = {
    "check": lambda values: 0 < len(values) == len(set(values)) and all(0 < value <= 1 for value in values),
    "expected": "distinct numbers above 0 and at most 1",
}


@dataclass(kw_only=True)
class Marks(IntervalOptions):
    """Predictions that stamps move to a class, beside those that plain patches move, and the cost of masked corners."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("predictions", "pixels", "decisions")

    target: str = option("generated", help="class that a mark may speak for")
    kinds: list[str] = option(
        [*STAMPS],
        help="AI in a circle, AI GENERATED in a pill, a logo, a frame",
        choices=STAMPS,
        check=lambda chosen: 0 < len(chosen) == len(set(chosen)),
        expected="one or more, each once",
    )
    opacities: list[float] = option([1.0, 0.4], help="of the stamps", **_UP_TO_1)
    sizes: list[float] = option([0.15], help="of the stamps, as fractions of the shorter side", **_UP_TO_1)
    position: str = option("bottom_right", help="of the stamps; any: drawn by each image's hash", choices=POSITIONS)
    corners: float = option(
        0.12,
        help="side of the masked squares, as a fraction of the shorter side",
        check=lambda side: 0 < side <= 0.5,
        expected="above 0 and at most 0.5",
    )

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute what stamps and patches move to the target class, by true class, and the cost of masked corners."""
        if self.target not in run.classes:
            raise BlockError(
                f"block=marks: {run.name} has no class {self.target!r}, to which marks could move predictions.",
                f"Name one of {', '.join(run.classes)}: block.marks.target=CLASS",
            )
        rows, clean, unlabelled = read_labelled(run, dataset)
        variations = self.list_variations()
        varied = run.variations(dataset, list(variations.values()))
        by_variation = {name: part.take(rows) for name, part in zip(variations, varied, strict=True)}
        moves, metrics = self._compute_moves(clean, by_variation)
        result = Result("marks", dataset.name, len(rows), clean.classes)
        result.metrics = metrics | self._compute_cost(clean, by_variation["corners"])
        images = [
            tabulate_predictions(part).assign(
                variation=name.partition("/")[0] + "/patch" * getattr(variations.get(name), "is_patch", False),
                opacity=getattr(variations.get(name), "opacity", float(name == "corners")),
                size=getattr(variations.get(name), "size", None),
            )
            for name, part in {"clean": clean, **by_variation}.items()
        ]
        result.tables = {"moves": moves, "predictions": pd.concat(images, ignore_index=True).drop(columns="source")}
        result.arrays["images"] = self._select_images(run, dataset, rows, clean, by_variation)
        result.warnings = [*unlabelled, self._conclude(metrics)]
        return result

    def list_variations(self) -> dict[str, Variation]:
        """Return the stamps, each before its patch, and the masked corners, by name."""
        marked = {
            f"{kind}/{opacity:g}/{size:g}{'/patch' * is_patch}": Marking(kind, opacity, size, self.position, is_patch)
            for kind, opacity, size, is_patch in product(self.kinds, self.opacities, self.sizes, (False, True))
        }
        return {**marked, "corners": Erasure(self.corners)}

    def _compute_moves(
        self, clean: Predictions, varied: Mapping[str, Predictions]
    ) -> tuple[pd.DataFrame, dict[str, Metric]]:
        """Return the shares of predictions moved by each stamp and its patch, by true class, and the metrics of any.

        Of images that are predicted as another class without a mark; the effect is the paired difference.
        """
        target = clean.classes.index(self.target)
        stamps = [name for name in varied if f"{name}/patch" in varied]
        is_open = clean.predicted != target
        hits = {name: np.where(is_open, part.predicted == target, np.nan) for name, part in varied.items()}
        by_stamp, by_patch = (np.column_stack([hits[name + end] for name in stamps]) for end in ("", "/patch"))
        by_stamp, by_patch = (np.column_stack([part.max(axis=1), part]) for part in (by_stamp, by_patch))
        inside = [np.ones(len(clean), dtype=bool), *(clean.targets == index for index in range(len(clean.classes)))]
        by_stamp, by_patch = (
            np.hstack([np.where(of_class[:, None], part, np.nan) for of_class in inside])
            for part in (by_stamp, by_patch)
        )
        keys = list(product((ALL_CLASSES, *clean.classes), (ANY_STAMP, *stamps)))
        moved, moved_by_patch = (
            compute_proportions(self, part, clean.units, higher_is_better=False) for part in (by_stamp, by_patch)
        )
        names, floors = list(map(repr, keys)), dict.fromkeys(map(repr, keys), 0.0)
        statistic, why = build_mean_statistic(by_stamp - by_patch), Reason("no_images")
        effects = bootstrap_metrics(self, names, statistic, clean.units, False, floors, why, DIFFERENCE).values()
        counted = (replace(effect, n=stamp.n) for effect, stamp in zip(effects, moved, strict=True))
        computed = dict(zip(keys, zip(moved, moved_by_patch, counted, strict=True), strict=True))
        table = []
        for (label, name), (stamp, patch, effect) in computed.items():
            kind, opacity, size = name.split("/") if name != ANY_STAMP else (ANY_STAMP, "nan", "nan")
            about = {"stamp": kind, "opacity": float(opacity), "size": float(size), "class": label, "n": stamp.n}
            row = make_columns("moved", stamp, "moved_") | make_columns("moved_by_patch", patch, "moved_by_patch_")
            table.append(about | row | make_columns("mark_effect", effect, "mark_effect_"))
        moved_all, moved_by_patch_all, effect = computed[ALL_CLASSES, ANY_STAMP]
        metrics = {"mark_effect": effect, "moved": moved_all, "moved_by_patch": moved_by_patch_all}
        metrics |= {f"mark_effect/{name}": computed[name, ANY_STAMP][2] for name in clean.classes}
        return pd.DataFrame(table), metrics

    def _compute_cost(self, clean: Predictions, masked: Predictions) -> dict[str, Metric]:
        """Return the accuracy on masked images, and the paired loss."""
        hits = np.column_stack([clean.correct, masked.correct]).astype(np.float64)
        before, after = compute_proportions(self, hits, clean.units, floor=1 / len(clean.classes))
        lost = build_mean_statistic(hits[:, :1] - hits[:, 1:])
        cost = bootstrap_metrics(self, ["masking_cost"], lost, clean.units, False, bounds=DIFFERENCE)
        return cost | {"accuracy": before, "accuracy_masked": after}

    def _conclude(self, metrics: Mapping[str, Metric]) -> Reason:
        effect, moved, patch = metrics["mark_effect"], metrics["moved"], metrics["moved_by_patch"]
        if moved.value is None:
            return Reason("always_target", name=self.target)
        if effect.low is None:  # all images alike
            is_shown = moved.low is not None and patch.high is not None and moved.low > patch.high
        else:
            is_shown = effect.low > 0
        code = "reads_marks" if is_shown else "no_effect_shown"
        return Reason(code, moved=moved.value, patch=patch.value, effect=effect.value, name=self.target, n=moved.n)

    def _select_images(
        self,
        run: Run,
        dataset: Dataset,
        rows: NDArray[np.intp],
        clean: Predictions,
        by_variation: Mapping[str, Predictions],
    ) -> dict[str, NDArray[Any]]:
        """Return the image that most marks move to the target class, clean and under all variations."""
        target = clean.classes.index(self.target)
        counts: Floats = np.sum([part.predicted == target for part in by_variation.values()], axis=0)
        chosen = int(np.where(clean.predicted == target, -1, counts).argmax())
        variations = self.list_variations().values()
        versions = list_versions(dataset, int(rows[chosen]), variations, run.predictor.prepare)
        return {"rows": chosen + len(rows) * np.arange(len(by_variation) + 1), **plots.make_thumbnails(versions)}
