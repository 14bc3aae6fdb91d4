"""Out-of-domain sets with their predictions, and the tables of out_of_domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.errors import BlockError, DataError, GuardError
from avatar_bench.results.headings import find_word

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run


@dataclass(frozen=True)
class OutOfDomainSet:
    """Set outside the domain: its kind (near, far, shifted), images and predictions."""

    name: str
    kind: str
    dataset: Dataset
    predictions: Predictions

    @property
    def should_reject(self) -> NDArray[np.bool_]:
        """Mark the images that deserve low confidence: those of no class, and misclassified ones."""
        return ~self.predictions.correct


def tabulate_sets(name: str, inside: Predictions, sets: Sequence[OutOfDomainSet]) -> pd.DataFrame:
    """Return one row per set, `inside` first: kind, label, n, accuracy, confidence and class proportions."""
    rows = [_build_set_row(name, "in_domain", inside)]
    rows += [_build_set_row(each.name, each.kind, each.predictions) for each in sets]
    return pd.DataFrame(rows)


def _build_set_row(name: str, kind: str, predictions: Predictions) -> dict[str, object]:
    known = predictions.targets >= 0
    labels = sorted({predictions.classes[target] for target in predictions.targets[known]})
    shares = np.bincount(predictions.predicted, minlength=len(predictions.classes)) / len(predictions)
    return {
        "set": name,
        "kind": kind,
        "label": "|".join(labels),
        "n": len(predictions),
        "groups": len(np.unique(predictions.groups)),
        "accuracy": predictions.correct[known].mean() if known.any() else np.nan,
        "mean_confidence": predictions.confidence.mean(),
        **{f"share_{label}": share for label, share in zip(predictions.classes, shares, strict=True)},
    }


def tabulate_scores(
    name: str,
    inside: Predictions,
    sets: Sequence[OutOfDomainSet],
    scores: Mapping[str, pd.DataFrame],
    percentiles: Mapping[str, NDArray[np.float64]],
) -> pd.DataFrame:
    """Return one row per image with its `scores` and percentile, given by set; in-domain ones under "in_domain"."""
    domain = "in_domain"
    parts = [_build_score_rows(name, domain, inside, scores[domain], percentiles[domain])]
    parts += [
        _build_score_rows(each.name, each.kind, each.predictions, scores[each.name], percentiles[each.name])
        for each in sets
    ]
    return pd.concat(parts, ignore_index=True)


def _build_score_rows(
    name: str, kind: str, predictions: Predictions, scores: pd.DataFrame, percentiles: NDArray[np.float64]
) -> pd.DataFrame:
    names = np.array([*predictions.classes, ""])  # the last one stands for unknown (-1)
    rows = {
        "set": name,
        "kind": kind,
        "path": predictions.paths,
        "group": predictions.groups,
        "target": names[predictions.targets],
        "prediction": names[predictions.predicted],
        "ood_percentile": percentiles,
        "confidence": predictions.confidence,
    }
    return pd.concat([pd.DataFrame(rows), scores], axis=1)


def name_kind(kind: str) -> str:
    """Return the display name of a kind of set."""
    return find_word(kind, "out_of_domain")


def read_ood_sets(run: Run) -> dict[str, tuple[Dataset, Predictions]]:
    """Read every out-of-domain set with its Predictions, by name.

    Raise BlockError if a folder is missing or an image is broken, so that other blocks go on; raise GuardError like the
    run.
    """
    name, found = "", {}
    try:
        for name, other in run.ood.items():
            found[name] = other, run.predictions(other)
        return found
    except (GuardError, BlockError):
        raise
    except DataError as error:
        which = f"The out-of-domain set {name}" if name else "An out-of-domain set"
        raise BlockError(
            f"{which} cannot be used: {error.lines[0]}",
            f"Repair it, or pass another folder: 'data.ood={{{name or 'NAME'}: FOLDER}}'",
        ) from error
