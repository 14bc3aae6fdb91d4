"""ensemble: what averaging several runs gains over the single one that val would have chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avatar_bench.evaluation import ensemble_figures as figures
from avatar_bench.evaluation.block import IntervalCompareBlock, known, recipes, together
from avatar_bench.evaluation.blocks.ensemble import strategy_tables as tables
from avatar_bench.evaluation.blocks.ensemble.weight_fitting import Cooked, HeldOut, Recipe, cook, fit, held_out
from avatar_bench.i18n import _
from avatar_bench.metrics import calibration, classification, stats
from avatar_bench.metrics.averaging import STRATEGIES, Mix, average, best_member
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs import ensembles

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
SINGLE, SOUP = "single", "soup"
_KINDS = ("accuracy", "macro_f1", "gain", "gain_macro_f1", "ece", "nll")
_FEW = 100  # held-out images below which weights and choices are little more than chance


@dataclass(kw_only=True)
class Ensemble(IntervalCompareBlock):
    """Average runs, and hold each average against the single run that the held-out images choose.

    Without `soup` weights are not averaged, so that no network is run.
    """

    soup: bool = True

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Give the accuracy, gain and calibration of each strategy, each run's contribution, and what is to be saved.

        Raise BlockError where the runs cannot be compared or hold out too few images in common, GuardError where
        the class names of one are in the wrong order or the set holds images that weights are fitted on.
        """
        held = held_out(runs, datasets)
        fitted = fit(held)  # before the set is looked at
        single = best_member(held.logits, held.targets)
        judged = together(runs, datasets)
        logits = np.stack([one.logits for one in judged])
        entries = {SINGLE: judged[single]} | {
            name: ensembles.combine(judged, recipe.mix, recipe.temperature) for name, recipe in fitted.items()
        }
        soup = cook(runs, held) if self.soup else None
        if soup is not None:
            found = soup.run.predictions(datasets[0]).in_order(runs[0].classes)
            entries[SOUP] = found.take(known(found, datasets[0]))
        labels = [run.label for run in runs]
        result = Result("ensemble", datasets[0].name, len(judged[0]), judged[0].classes)
        result.metrics = self._metrics(entries) | self._contributions(labels, logits, judged[0])
        mixes = {name: recipe.mix for name, recipe in fitted.items()} | _soup_mix(soup, len(runs))
        result.tables = tables.build(result.metrics, entries, mixes, labels, held, single)
        result.arrays = _arrays(logits, judged, held)
        result.figures = figures.draw(result, labels, _colours(runs), single)
        result.warnings = self._warnings(result.metrics, held, labels[single], soup, runs)
        result.provenance = _provenance(runs, fitted, soup, single, judged[0].classes)
        return result

    def _metrics(self, entries: Mapping[str, Predictions]) -> dict[str, Metric]:
        """Give each strategy's figures, those of the single run as well; a soup that there is not has nulls."""
        first, found = entries[SINGLE], {}
        names = [name for name in (*STRATEGIES, SINGLE, SOUP) if name in entries]
        for name in names:
            floor = 1 / len(first.classes)
            found[f"accuracy/{name}"] = self.share(entries[name].correct, first.groups, floor=floor)
        for kind in _KINDS[1:]:
            found |= self._of_kind(kind, {name: entries[name] for name in names})
        if SOUP not in entries:
            why = _("there are not two runs of one architecture and origin") if self.soup else _("not asked for")
            nothing = Metric(None, 0, higher_is_better=None, reason=why)
            found |= {f"{kind}/{SOUP}": nothing for kind in _KINDS}
        return found

    def _of_kind(self, kind: str, entries: Mapping[str, Predictions]) -> dict[str, Metric]:
        groups = entries[SINGLE].groups
        if kind == "ece":
            reason = _("no interval: put the ensemble through the block calibration")
            return {
                f"ece/{name}": Metric(tables.ece(one), len(one), higher_is_better=False, reason=reason)
                for name, one in entries.items()
            }
        if kind in ("gain", "gain_macro_f1"):
            others = {name: one for name, one in entries.items() if name != SINGLE}
            reached = (_accuracies if kind == "gain" else _macro_f1s)([*others.values(), entries[SINGLE]])
            return self.resampled([f"{kind}/{name}" for name in others], _over_the_last(reached), groups)
        names = [f"{kind}/{name}" for name in entries]
        if kind == "nll":
            losses = [calibration.losses_of(one.logits, one.targets, one.temperature) for one in entries.values()]
            return self.resampled(names, _means(np.column_stack(losses)), groups, higher_is_better=False)
        return self.resampled(names, _macro_f1s(list(entries.values())), groups)

    def _contributions(self, labels: Sequence[str], logits: Reals, judged: Predictions) -> dict[str, Metric]:
        """Give what soft voting loses in accuracy without each run in turn."""
        everyone = _votes(logits) == judged.targets
        without = [_votes(np.delete(logits, run, axis=0)) == judged.targets for run in range(len(logits))]
        columns = np.column_stack([everyone.astype(float) - right for right in without])
        return self.resampled([f"contribution/{label}" for label in labels], _means(columns), judged.groups)

    def _warnings(
        self, metrics: Mapping[str, Metric], held: HeldOut, single: str, soup: Cooked | None, runs: Sequence[Run]
    ) -> list[str]:
        said = []
        gains = [metric for name, metric in metrics.items() if name.startswith("gain/") and metric.value is not None]
        if not any(metric.low is not None and metric.low > 0 for metric in gains):
            told = _("No ensemble is shown to be better than {name}, the single run chosen on val.", name=single)
            said.append(told)
        if len(held) < _FEW:
            told = _(
                "Weights, temperatures and the choice of the single run rest on only {n} held-out images.",
                n=len(held),
            )
            said.append(told)
        if soup is not None and len(soup.kept) == 1:
            told = _(
                "The soup is {name} alone: each other of the {n} runs of {backbone} lowers its accuracy on the "
                "held-out images.",
                name=runs[soup.kept[0]].label,
                n=len(soup.candidates),
                backbone=runs[soup.kept[0]].card.backbone,
            )
            said.append(told)
        return said


def _votes(logits: Reals) -> NDArray[np.intp]:
    mix = Mix(np.full(len(logits), 1 / len(logits)), np.ones(len(logits)))
    return np.asarray(average(logits, mix).argmax(axis=1))


def _means(columns: Floats) -> stats.Statistic:
    """Give what maps weights (B, N) to the weighted mean of each column of (N, K)."""
    return lambda weights: np.asarray(weights @ columns / weights.sum(axis=1, keepdims=True))


def _accuracies(entries: Sequence[Predictions]) -> stats.Statistic:
    return _means(np.column_stack([one.correct for one in entries]).astype(float))


def _over_the_last(statistic: stats.Statistic) -> stats.Statistic:
    """Return what each figure (B, K) is above the last of them."""

    def differences(weights: Floats) -> Floats:
        found = statistic(weights)
        return found[:, :-1] - found[:, -1:]

    return differences


def _macro_f1s(entries: Sequence[Predictions]) -> stats.Statistic:
    size = len(entries[0].classes)

    def statistic(weights: Floats) -> Floats:
        counts = [classification.confusion_matrix(one.targets, one.predicted, size, weights) for one in entries]
        return np.column_stack([classification.macro_f1(one) for one in counts])

    return statistic


def _soup_mix(soup: Cooked | None, runs: int) -> dict[str, Mix]:
    if soup is None:
        return {}
    weights = np.zeros(runs)
    weights[soup.kept] = 1 / len(soup.kept)
    return {SOUP: Mix(weights, np.ones(runs))}


def _arrays(logits: Reals, judged: Sequence[Predictions], held: HeldOut) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Give what every figure can be recomputed from."""
    first = judged[0]
    own = np.array([one.temperature for one in judged])
    members = {"logits": logits, "targets": first.targets, "groups": first.groups, "temperatures": own}
    return {"members": members, "calibration": {"logits": held.logits, "targets": held.targets}}


def _colours(runs: Sequence[Run]) -> list[int]:
    """Give the number of each run's recipe, by which it is coloured everywhere."""
    return [list(recipes(runs)).index(run.recipe) for run in runs]


def _provenance(
    runs: Sequence[Run], fitted: Mapping[str, Recipe], soup: Cooked | None, single: int, classes: tuple[str, ...]
) -> dict[str, Any]:
    found = {
        name: ensembles.describe("ensemble", runs, recipe.mix, recipe.temperature, classes)
        for name, recipe in fitted.items()
    }
    told: dict[str, Any] = {"single": runs[single].label, "ensembles": found}
    if soup is not None:
        kept = soup.run
        found[SOUP] = ensembles.describe("soup", kept.members, kept.mix, kept.fitted, kept.classes)
        candidates, inside = ([runs[place].label for place in some] for some in (soup.candidates, soup.kept))
        told["soup"] = {"backbone": kept.card.backbone, "candidates": candidates, "kept": inside}
    return told
