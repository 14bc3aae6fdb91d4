"""Models that the integrated score ranks, their ranking and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.block import group_by_recipe
from avatar_bench.evaluation.blocks.integrated_score.score_inputs import SCORE_QUALITIES, RunQualities
from avatar_bench.metrics import integrated_score

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedModel:
    """Recipe with its name, the positions of its runs, their mean qualities (Q,), and the missing ones."""

    name: str
    members: list[int]
    values: Floats
    missing: str
    fingerprint: str


@dataclass(frozen=True)
class ModelRanking:
    """Completeness of M models (M,), their qualities from 0 to 1 (M, Q) and scores (M,).

    `ends` (2, M, Q) are the intervals of the measured qualities; `drawn` (B, K) are the scores of the K complete models
    by resample, `weighted` (W, K) by random weighting.
    """

    complete: NDArray[np.bool_]
    ends: Floats
    normalised: Floats
    score: Floats
    drawn: Floats
    weighted: Floats

    def list_names(self, models: Sequence[RankedModel]) -> list[str]:
        """Return the names of the complete models."""
        return [model.name for model, whole in zip(models, self.complete, strict=True) if whole]

    def compute_interval(self, level: float) -> tuple[Floats, Floats]:
        """Return the ends of the interval of each score, (M,); NaN for incomplete models."""
        low, high = self.expand(*np.quantile(self.drawn, [(1 - level) / 2, (1 + level) / 2], axis=0))
        return low, high

    def expand(self, *columns: NDArray[np.generic]) -> tuple[Floats, ...]:
        """Expand columns (K,) of the complete models to all models (M,), with NaN for incomplete ones."""
        whole = []
        for column in columns:
            whole.append(np.full(len(self.complete), np.nan))
            whole[-1][self.complete] = column
        return tuple(whole)


def group_models(runs: Sequence[Run], readings: Sequence[RunQualities], qualities: Sequence[str]) -> list[RankedModel]:
    """Return the recipes in order of appearance; one with a single run is named by its label."""
    found = []
    for recipe, members in group_by_recipe(runs).items():
        own = [readings[member] for member in members]
        values = np.array([[reading.values.get(key, np.nan) for key in qualities] for reading in own])
        lacking = [
            f"{key}: {reading.missing[key]}" + (f" ({runs[member].label})" if len(members) > 1 else "")
            for member, reading in zip(members, own, strict=True)
            for key in qualities
            if key in reading.missing
        ]
        name = runs[members[0]].label if len(members) == 1 else recipe
        prints = "|".join(sorted(set().union(*(reading.fingerprints for reading in own))))
        found.append(RankedModel(name, members, values.mean(axis=0), "; ".join(lacking), prints))
    return found


def build_scores_table(
    models: Sequence[RankedModel], ranking: ModelRanking, qualities: Sequence[str], level: float
) -> pd.DataFrame:
    """Return score, ranks, Pareto front and qualities of each model, the best first, incomplete ones last."""
    score_low, score_high = ranking.compute_interval(level)
    table = pd.DataFrame(
        {
            "run": [model.name for model in models],
            "seeds": [len(model.members) for model in models],
            "complete": ranking.complete,
            "score": ranking.score,
            "score_low": score_low,
            "score_high": score_high,
            **dict(zip(_RANKS, ranking.expand(*_compute_ranks(ranking, level)), strict=True)),
            "pareto": _find_front(ranking),
        }
    )
    for index, key in enumerate(qualities):
        table[f"normalised/{key}"] = ranking.normalised[:, index]
    table["missing"] = [model.missing for model in models]
    table["data_fingerprint"] = [model.fingerprint for model in models]
    table = table.astype(dict.fromkeys((name for name in _RANKS if "rank" in name), "Int64"))
    return table.sort_values("score", ascending=False, kind="stable", na_position="last", ignore_index=True)


def build_ranks_table(models: Sequence[RankedModel], ranking: ModelRanking) -> pd.DataFrame:
    """Count how often each complete model has each rank, by resample and by random weighting, as proportions."""
    names, found = ranking.list_names(models), {}
    for kind, drawn in (("resamples", ranking.drawn), ("weightings", ranking.weighted)):
        found[kind] = integrated_score.rank_shares(integrated_score.ranks(drawn)).ravel()
    rows = [(name, rank) for name in names for rank in range(1, len(names) + 1)]
    return pd.DataFrame(rows, columns=["run", "rank"]).assign(**found)


def build_runs_table(runs: Sequence[Run], readings: Sequence[RunQualities]) -> pd.DataFrame:
    """Return the value of each quality of each run as its saved result has it; empty if missing."""
    rows = []
    for run, reading in zip(runs, readings, strict=True):
        about = {"run": run.label, "recipe": run.recipe, "seed": run.seed}
        about["data_fingerprint"] = "|".join(sorted(reading.fingerprints))
        rows.append(about | {key: reading.values.get(key, np.nan) for key in SCORE_QUALITIES})
    return pd.DataFrame(rows)


def build_models_table(models: Sequence[RankedModel], ranking: ModelRanking, qualities: Sequence[str]) -> pd.DataFrame:
    """Return mean values with intervals of each model, and whether it is Pareto-optimal in accuracy and each cost."""
    table = pd.DataFrame({"run": [model.name for model in models]})
    for index, key in enumerate(qualities):
        table[key] = [model.values[index] for model in models]
        table[f"{key}_low"], table[f"{key}_high"] = ranking.ends[:, :, index]
    for key in [key for key in ("speed", "size") if {key, "accuracy"} <= set(qualities)]:
        pair = [qualities.index("accuracy"), qualities.index(key)]
        table[f"pareto/{key}"] = _find_front(ranking, pair)
    return table


def build_normalised_table(models: Sequence[RankedModel], normalised: Floats, qualities: Sequence[str]) -> pd.DataFrame:
    """Return each quality of each model from 0 to 1; empty if missing."""
    table = pd.DataFrame(normalised, columns=list(qualities))
    table.insert(0, "run", [model.name for model in models])
    return table


_RANKS = (
    *("rank", "rank_low", "rank_high", "weighted_rank_low", "weighted_rank_median", "weighted_rank_high"),
    *("share_first", "share_first_resampled"),
)


def _compute_ranks(ranking: ModelRanking, level: float) -> tuple[Floats, ...]:
    """Return the columns of _RANKS for the complete models."""
    if not ranking.complete.any():
        return (np.zeros(0),) * len(_RANKS)
    by_chance, by_weight = integrated_score.ranks(ranking.drawn), integrated_score.ranks(ranking.weighted)
    low, high = integrated_score.rank_interval(by_weight, level)
    return (
        integrated_score.ranks(ranking.score[ranking.complete]),
        *integrated_score.rank_interval(by_chance, level),
        *(low, integrated_score.rank_interval(by_weight, 0.0)[0], high),
        *(integrated_score.rank_shares(ranks)[:, 0] for ranks in (by_weight, by_chance)),
    )


def _find_front(ranking: ModelRanking, columns: Sequence[int] | slice = slice(None)) -> NDArray[np.bool_]:
    front = np.zeros(len(ranking.complete), dtype=bool)
    front[ranking.complete] = integrated_score.pareto_front(ranking.normalised[ranking.complete][:, columns])
    return front
