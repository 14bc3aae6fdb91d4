"""What figures that compare models have in common: colours, markers and names of runs, logarithmic axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import find_word

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

_NAME_LENGTH = 34  # characters of a model's name
_MIN_RATIO = 6.0  # of the ends of an axis, so that it has two or three ticks


def tabulate_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return run (its label), kind ("run", "ensemble" or "soup") and recipe: what `RunStyles` needs of each run."""
    from avatar_bench.runs.ensembles import CombinedRun, WeightSoup  # torch: slow to import, and not needed to draw

    kinds = [
        "soup" if isinstance(run, WeightSoup) else "ensemble" if isinstance(run, CombinedRun) else "run" for run in runs
    ]
    return pd.DataFrame({"run": [run.label for run in runs], "kind": kinds, "recipe": [run.recipe for run in runs]})


class RunStyles:
    """Colours and markers of runs, by label, and of models, by name: one style per recipe.

    `table` has the columns of `tabulate_runs`, in the order of the runs, also as read from a saved Result.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.labels = table["run"].astype(str).tolist()
        recipes = table["recipe"].astype(str).tolist()
        found = {recipe: place for place, recipe in enumerate(dict.fromkeys(recipes))}
        only = dict(zip(recipes, self.labels, strict=True))
        self.models = [only[recipe] if recipes.count(recipe) == 1 else recipe for recipe in found]
        self._index = {name: index for index, name in enumerate(self.models)}
        self._index |= {label: found[recipe] for label, recipe in zip(self.labels, recipes, strict=True)}
        self._made_of_others = set(table.loc[table["kind"] != "run", "run"].astype(str))
        self._short = dict(zip(self._index, plots.shorten_names(self._index, _NAME_LENGTH), strict=True))

    def of(self, name: str) -> dict[str, Any]:
        """Return the colour and the marker of a run or model; ensembles have a plus."""
        index = self._index[name]
        return {
            "color": plots.get_colour(index),
            "marker": "P" if name in self._made_of_others else plots.get_marker(index),
        }

    def word(self, name: str) -> str:
        """Return the display name of a run or model; ensembles are marked as such."""
        if name in self._made_of_others:
            return _("{strategy} (ensemble)", strategy=find_word(name))
        return self._short[name]


def set_log_axis(axes: Axes, which: Literal["x", "y"], values: Iterable[float]) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5 and room for several of them."""
    known = list(values)
    low, high = min(known), max(known)
    spread = max(1.25, (_MIN_RATIO * low / high) ** 0.5)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low / spread, high * spread)})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
