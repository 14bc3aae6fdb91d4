"""integrated_score: one score per model from several qualities, and how its rank depends on chance and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from avatar_bench.config.entries import find_entries
from avatar_bench.config.options import option
from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.block import group_by_recipe, refuse_other_classes, tabulate_runs
from avatar_bench.evaluation.blocks.integrated_score.score_inputs import Reading, find_qualities, read_qualities
from avatar_bench.evaluation.intervals import IntervalOptions, metric_with_interval
from avatar_bench.metrics import integrated_score, paired_tests
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.declaration import QualityDeclaration
from avatar_bench.results.predictions import to_string_array
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


def _list_weights() -> dict[str, float]:
    return dict.fromkeys(find_qualities(), 1.0)


def _list_ranges() -> dict[str, list[float | None]]:
    return {key: [quality.worst, quality.best] for key, quality in find_qualities().items()}


@dataclass(kw_only=True)
class IntegratedScore(IntervalOptions):
    """Ranking of models by the weighted mean of their qualities, each scaled from 0 (worst) to 1."""

    version: ClassVar[int] = 3
    reads_results: ClassVar[bool] = True

    weights: dict[str, float] = option(_list_weights, help="of the qualities that blocks declare; 0: not used")
    ranges: dict[str, list[float | None]] = option(
        _list_ranges, help="worst and best value of each quality, scores 0 and 1; null: that of guessing"
    )
    scale: str = option(
        "fixed", help="onto the ranges, or from the worst to the best model compared", choices=("fixed", "min_max")
    )
    ood_score: str = option("energy", help="score whose AUROC counts", choices=lambda: list(find_entries("ood_score")))
    weightings: int = option(1000, help="random weightings for the stability of the ranks", range=(100, None))

    def __post_init__(self) -> None:
        super().__post_init__()
        known = find_qualities()
        if unknown := [key for key in (*self.weights, *self.ranges) if key not in known]:
            raise ConfigError(
                f"block.integrated_score: no block declares the quality {unknown[0]!r} of weights or ranges.",
                f"There are: {', '.join(known)}.",
            )
        self.weights, self.ranges = _list_weights() | self.weights, _list_ranges() | self.ranges
        if not self.qualities or not all(0 <= weight < np.inf for weight in self.weights.values()):
            raise ConfigError(f"block.integrated_score.weights={self.weights}: expected 0 or more, not all 0.")
        for key, ends in self.ranges.items():
            if not _is_valid_range(known[key], ends):
                expected = "two numbers, worst and best" + (", above 0" if known[key].log else "")
                raise ConfigError(f"block.integrated_score.ranges.{key}={ends}: expected {expected}.")

    @property
    def qualities(self) -> tuple[str, ...]:
        """Return the qualities with a weight above 0."""
        return tuple(key for key, weight in self.weights.items() if weight > 0)

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute scores, ranks and their intervals for each model, a recipe averaged over its seeds."""
        refuse_other_classes(runs)
        classes, name = runs[0].classes, datasets[0].name
        readings = [read_qualities(run, name, self.ood_score) for run in runs]
        settings = self._tabulate_settings(readings, len(classes))
        self._check_directions(runs, readings, settings)
        models = self._score_models(runs, readings, settings)
        scores = _build_scores_table(models, runs, readings, self.level)
        result = Result("integrated_score", name, len(datasets[0]), classes)
        result.metrics = self._build_metrics(scores, len(datasets[0]), readings)
        result.tables = {
            "scores": scores.sort_values("score", ascending=False, kind="stable", ignore_index=True),
            "raw": _build_runs_table(runs, readings),
            "models": _build_models_table(models),
            "qualities": settings,
        }
        result.warnings = list(self._collect_warnings(runs, readings, result))
        if models.complete.any():
            result.tables["ranks"] = _build_ranks_table(models)
            result.arrays = {"resamples": {"scores": models.drawn, "models": to_string_array(models.ranked_names)}}
        return result

    def _tabulate_settings(self, readings: Sequence[Reading], classes: int) -> pd.DataFrame:
        """Tabulate the metric, weight and range of each quality, and whether it is drawn."""
        rows = []
        for key, quality in find_qualities().items():
            worst, best = self.ranges[key]
            guessing = 1 / classes if quality.best else 1 - 1 / classes
            rows.append(
                {
                    "quality": key,
                    "block": quality.block,
                    "metric": quality.metric.format(score=self.ood_score),
                    "weight": self.weights[key],
                    "worst": guessing if worst is None else worst,
                    "best": best,
                    "log": quality.log,
                    "resampled": key in self.qualities and any(reading[key].is_uncertain for reading in readings),
                    "scale": self.scale,
                }
            )
        return pd.DataFrame(rows)

    def _check_directions(self, runs: Sequence[Run], readings: Sequence[Reading], settings: pd.DataFrame) -> None:
        """Raise ConfigError if the better end of a range contradicts the direction of its metric."""
        ranges = settings.loc[settings["weight"] > 0, ["quality", "block", "worst", "best"]]
        for run, reading in zip(runs, readings, strict=True):
            for key, block, worst, best in ranges.itertuples(index=False):
                if not reading[key].missing and reading[key].higher_is_better is not (best > worst):
                    raise ConfigError(
                        f"block.integrated_score.ranges.{key}=[{worst:.4g}, {best:.4g}] ranks "
                        f"{'higher' if best > worst else 'lower'} values as better.",
                        f"The metric of {block} of {run.label} has another direction.",
                        "Expected the worst value first, then the best.",
                    )

    def _score_models(self, runs: Sequence[Run], readings: Sequence[Reading], settings: pd.DataFrame) -> _ScoredModels:
        """Score the models, and the complete ones again by draw and by random weighting."""
        recipes = group_by_recipe(runs).items()
        members = {runs[member[0]].label if len(member) == 1 else name: member for name, member in recipes}
        values = np.array([[reading[key].value for key in self.qualities] for reading in readings])
        means = np.stack([values[member].mean(axis=0) for member in members.values()])
        complete = ~np.isnan(means).any(axis=1)
        drawn = self._draw_models(readings, list(members.values()))
        ends = np.quantile(drawn, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        used = settings[settings["weight"] > 0]
        normalised, redrawn = (_normalise(raw, complete, used) for raw in (means, drawn))
        weights = used["weight"].to_numpy()
        score, scores = (integrated_score.weighted_mean(raw, weights) for raw in (normalised, redrawn))
        # uniform on the simplex
        others = np.random.default_rng(self.seed).dirichlet(np.ones(len(weights)), self.weightings)
        weighted = integrated_score.weighted_mean(normalised[complete], others[:, None])
        return _ScoredModels(self.qualities, members, means, ends, normalised, score, scores[:, complete], weighted)

    def _draw_models(self, readings: Sequence[Reading], members: Sequence[Sequence[int]]) -> Floats:
        """Draw the qualities of each model, (B, M, Q), from the intervals of its runs, and its runs with replacement.

        Qualities of the same images share the draw: all are better or worse at once. Models do not: none depends on the
        others.
        """
        drawn = np.empty((self.resamples, len(members), len(self.qualities)))
        levels = stats.norm.ppf((np.arange(self.resamples) + 0.5) / self.resamples)
        for model, rows in enumerate(members):
            generator = np.random.default_rng((self.seed, model))
            shares = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), self.resamples) / len(rows)
            images = [readings[rows[0]][key].images for key in self.qualities]
            normal = {kind_of_images: generator.permutation(levels) for kind_of_images in dict.fromkeys(images)}
            for column, key in enumerate(self.qualities):
                values = [readings[run][key].draw(normal[images[column]]) for run in rows]
                drawn[:, model, column] = (shares * np.column_stack(values)).sum(axis=1)
        return drawn

    def _build_metrics(self, scores: pd.DataFrame, n: int, readings: Sequence[Reading]) -> dict[str, Metric]:
        """Return the score of each model on n images; its units are the fewest of a quality."""
        metrics = {}
        drawn = [reading[key] for reading in readings for key in self.qualities if reading[key].is_uncertain]
        units = min((quality.units for quality in drawn), default=None)
        for row in scores.to_dict("records"):
            method = f"drawn from intervals by {'seed and ' * (row['seeds'] > 1)}group"
            ends, reason = (row["score"], row["score_low"], row["score_high"]), Reason.parse_cell(row["missing"])
            metric = metric_with_interval(*ends, n if row["complete"] else 0, method, reason=reason)
            metrics[f"score/{row['run']}"] = replace(metric, units=units) if metric.interval else metric
        return metrics

    def _collect_warnings(self, runs: Sequence[Run], readings: Sequence[Reading], result: Result) -> Iterator[Reason]:
        """Warn of models that are not ranked, values that cannot be compared, and values outside their fixed range."""
        scores, models, settings = (result.tables[name] for name in ("scores", "models", "qualities"))
        if lacking := scores.loc[~scores["complete"], "run"].tolist():
            yield Reason("not_ranked", n=len(lacking), all=len(scores), names=lacking)
        for key in self.qualities:
            groups: dict[str, list[str]] = {}
            for run, reading in zip(runs, readings, strict=True):
                if not reading[key].missing:
                    groups.setdefault(reading[key].basis, []).append(run.label)
            if len(groups) > 1:
                names = " | ".join(", ".join(labels) for labels in groups.values())
                yield Reason("other_machines" if key == "speed" else "other_basis", quality=key, groups=names)
            ends = settings.loc[settings["quality"] == key, ["worst", "best"]].iloc[0]
            cut = models.loc[(models[key] < ends.min()) | (models[key] > ends.max()), "run"].tolist()
            if cut and self.scale == "fixed":
                yield Reason("clipped", quality=key, names=cut)


def _normalise(values: Floats, complete: NDArray[np.bool_], settings: pd.DataFrame) -> Floats:
    """Scale qualities (..., M, Q) to the range from 0 to 1, where 1 is best."""
    columns = [
        integrated_score.scale_to_range(column, about["worst"], about["best"], about["log"])
        if about["scale"] == "fixed"
        else integrated_score.scale_min_max(column, about["best"] > about["worst"], complete)
        for about, column in zip(settings.to_dict("records"), np.moveaxis(values, -1, 0), strict=True)
    ]
    return np.stack(columns, axis=-1)


def _is_valid_range(quality: QualityDeclaration, ends: Sequence[float | None]) -> bool:
    """Check that a range has two different ends: a worst, which may be the level of guessing, and a best."""
    known = [end for end in ends if end is not None]
    may_guess = len(ends) == 2 and ends[1] is not None and (ends[0] is not None or quality.worst is None)
    valid = all(np.isfinite(end) and (end > 0 or not quality.log) for end in known)
    return may_guess and valid and len(set(known)) == len(known)


@dataclass(frozen=True)
class _ScoredModels:
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


def _build_scores_table(
    models: _ScoredModels, runs: Sequence[Run], readings: Sequence[Reading], level: float
) -> pd.DataFrame:
    """Return score, ranks, Pareto front and qualities of each model, in their order."""
    members = models.members.values()
    table = pd.DataFrame({"run": list(models.members), "seeds": [len(member) for member in members]})
    table = table.assign(complete=models.complete, score=models.score).join(_rank_models(models, level))
    table["pareto"] = models.find_front(*models.qualities)
    table[[f"normalised/{key}" for key in models.qualities]] = models.normalised
    table["missing"] = [_list_missing(member, runs, readings, models.qualities) for member in members]
    table["data_fingerprint"] = [_join_fingerprints([readings[run] for run in member]) for member in members]
    return table


def _build_ranks_table(models: _ScoredModels) -> pd.DataFrame:
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


def _build_runs_table(runs: Sequence[Run], readings: Sequence[Reading]) -> pd.DataFrame:
    """Return the value of each quality of each run as its saved result has it; empty if missing."""
    table = tabulate_runs(runs).assign(seed=[run.seed for run in runs])
    table["data_fingerprint"] = [_join_fingerprints([reading]) for reading in readings]
    return table.join(pd.DataFrame({key: quality.value for key, quality in reading.items()} for reading in readings))


def _build_models_table(models: _ScoredModels) -> pd.DataFrame:
    """Return mean values with intervals of each model, and whether it is Pareto-optimal in accuracy and each cost."""
    table = pd.DataFrame({"run": list(models.members)})
    for index, key in enumerate(models.qualities):
        table[key] = models.values[:, index]
        table[f"{key}_low"], table[f"{key}_high"] = models.ends[:, :, index]
    for key in ("speed", "size"):
        if {key, "accuracy"} <= set(models.qualities):
            table[f"pareto/{key}"] = models.find_front("accuracy", key)
    return table


def _rank_models(models: _ScoredModels, level: float) -> pd.DataFrame:
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
    reasons = [
        Reason(code, quality=key, reason=reason, run=runs[run].label)
        for run in members
        for key in qualities
        if (reason := readings[run][key].missing)
    ]
    return str(Reason("incomplete", qualities=reasons)) if reasons else ""


def _join_fingerprints(readings: Sequence[Reading]) -> str:
    return "|".join(sorted({quality.fingerprint for reading in readings for quality in reading.values()} - {""}))
