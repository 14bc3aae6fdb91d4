"""Models that the integrated score ranks, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.integrated_score.score_inputs import Reading
from avatar_bench.evaluation.model_figures import tabulate_runs
from avatar_bench.metrics import integrated_score, paired_tests
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.reasons import Reason

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run


@dataclass(frozen=True)
class ScoredModels:
    """M models by name with the positions of the runs of each, their Q qualities and scores.

    `values` (M, Q) are the measured qualities, `ends` (2, M, Q) their intervals, `normalised` (M, Q) lie from 0 to 1;
    `score` is (M,). `drawn` (B, K) are the scores of the K complete models by draw from the intervals, `weighted`
    (W, K) by random weighting.
    """

    qualities: tuple[str, ...]
    members: dict[str, list[int]]
    values: Floats
    ends: Floats
    normalised: Floats
    score: Floats
    drawn: Floats
    weighted: Floats

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Return which models have all qualities, (M,)."""
        return np.asarray(~np.isnan(self.values).any(axis=1))

    @property
    def ranked_names(self) -> list[str]:
        """Return the names of the complete models."""
        return [name for name, whole in zip(self.members, self.complete, strict=True) if whole]

    def find_front(self, *keys: str) -> NDArray[np.bool_]:
        """Find the Pareto-optimal complete models in some qualities, (M,)."""
        columns = [self.qualities.index(key) for key in keys]
        ranked = np.where(self.complete[:, None], self.normalised[:, columns], np.nan)
        return self.complete & integrated_score.pareto_front(ranked)


def build_scores_table(
    models: ScoredModels, runs: Sequence[Run], readings: Sequence[Reading], level: float
) -> pd.DataFrame:
    """Return score, ranks, Pareto front and qualities of each model, in their order."""
    members = models.members.values()
    table = pd.DataFrame({"run": list(models.members), "seeds": [len(own) for own in members]})
    table = table.assign(complete=models.complete, score=models.score).join(_rank_models(models, level))
    table["pareto"] = models.find_front(*models.qualities)
    table[[f"normalised/{key}" for key in models.qualities]] = models.normalised
    table["missing"] = [_list_missing(own, runs, readings, models.qualities) for own in members]
    table["data_fingerprint"] = [_join_fingerprints([readings[run] for run in own]) for own in members]
    return table


def build_ranks_table(models: ScoredModels) -> pd.DataFrame:
    """Count how often each complete model has each rank, by draw and by random weighting, as proportions."""
    names = models.ranked_names
    return pd.DataFrame(
        {
            "run": np.repeat(names, len(names)),
            "rank": np.tile(range(1, len(names) + 1), len(names)),
            "resamples": integrated_score.rank_shares(paired_tests.ranks(models.drawn)).ravel(),
            "weightings": integrated_score.rank_shares(paired_tests.ranks(models.weighted)).ravel(),
        }
    )


def build_runs_table(runs: Sequence[Run], readings: Sequence[Reading]) -> pd.DataFrame:
    """Return the value of each quality of each run as its saved result has it; empty if missing."""
    table = tabulate_runs(runs).assign(seed=[run.seed for run in runs])
    table["data_fingerprint"] = [_join_fingerprints([reading]) for reading in readings]
    return table.join(pd.DataFrame({key: each.value for key, each in reading.items()} for reading in readings))


def build_models_table(models: ScoredModels) -> pd.DataFrame:
    """Return mean values with intervals of each model, and whether it is Pareto-optimal in accuracy and each cost."""
    table = pd.DataFrame({"run": list(models.members)})
    for index, key in enumerate(models.qualities):
        table[key] = models.values[:, index]
        table[f"{key}_low"], table[f"{key}_high"] = models.ends[:, :, index]
    for key in ("speed", "size"):
        if {key, "accuracy"} <= set(models.qualities):
            table[f"pareto/{key}"] = models.find_front("accuracy", key)
    return table


def _rank_models(models: ScoredModels, level: float) -> pd.DataFrame:
    """Return a row for each complete model, by its position: interval of its score, and its ranks."""
    table = pd.DataFrame(index=np.flatnonzero(models.complete))
    table["score_low"], table["score_high"] = np.quantile(models.drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    by_chance, by_weight = paired_tests.ranks(models.drawn), paired_tests.ranks(models.weighted)
    table["rank"] = paired_tests.ranks(models.score[models.complete])
    table["rank_low"], table["rank_high"] = integrated_score.rank_interval(by_chance, level)
    table["weighted_rank_low"], high = integrated_score.rank_interval(by_weight, level)
    table["weighted_rank_median"] = integrated_score.rank_interval(by_weight, 0.0)[0]
    table["weighted_rank_high"] = high
    table = table.astype(dict.fromkeys(table.filter(like="rank"), "Int64"))
    table["share_first"] = integrated_score.rank_shares(by_weight)[:, :1].ravel()
    table["share_first_resampled"] = integrated_score.rank_shares(by_chance)[:, :1].ravel()
    return table


def _list_missing(
    members: Sequence[int], runs: Sequence[Run], readings: Sequence[Reading], qualities: Sequence[str]
) -> str:
    """Return a cell with the reason why a model is incomplete, "" if it is not."""
    code = "lacking_in" if len(members) > 1 else "lacking"
    found = [
        Reason(code, quality=key, reason=reason, run=runs[run].label)
        for run in members
        for key in qualities
        if (reason := readings[run][key].missing)
    ]
    return str(Reason("incomplete", qualities=found)) if found else ""


def _join_fingerprints(readings: Sequence[Reading]) -> str:
    return "|".join(sorted({each.fingerprint for reading in readings for each in reading.values()} - {""}))
