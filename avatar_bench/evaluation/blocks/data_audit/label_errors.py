"""Suspected label errors: images whose label contradicts the frozen features of an ImageNet network."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.audit.probes import ProbeSettings
from avatar_bench.console.progress import track
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import ConfigError
from avatar_bench.models.package_features import compute_package_features, has_weights, read_package_recipe
from avatar_bench.results.reasons import Reason

MIN_GROUPS = 5  # per class: with fewer, some folds lack the class
_BATCH, _SIZE = 32, 224


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
    return compute_package_features(_require_recipe(model), batches)


def find_suspects(features: NDArray[np.float32], frame: pd.DataFrame, plan: ProbeSettings) -> pd.DataFrame:
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
