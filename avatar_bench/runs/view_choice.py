"""Choice of the view in which runs are evaluated, predict or are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avatar_bench.errors import ConfigError
from avatar_bench.results.view import View, read_views
from avatar_bench.runs.run import Run


def set_view(runs: Sequence[Run], name: str | None, classes: Mapping[str, Any]) -> View:
    """Set the view of every run and return it: the named one, or the finest in which every run has the same classes.

    If there is none, every class is as it is. Raise ConfigError if a run cannot answer the view.
    """
    if name is not None:
        view = View.parse(name, classes)
        for run in runs:
            if view.assign(run.meanings) is None:
                raise ConfigError(_explain(run, view), _list_answerable(run))
    else:
        view, has_plain = View(), _can_answer(runs, View())
        if not has_plain or len({frozenset(run.known_labels) for run in runs}) > 1:
            found = [each for each in read_views().values() if each.classes and _can_answer(runs, each)]
            if not found and has_plain:
                found = [view]
            if not found:
                names = ", ".join(run.label or run.name for run in runs)
                raise ConfigError(
                    f"There is no view that {names} can answer.",
                    f"{runs[0].label or runs[0].name}: {_list_answerable(runs[0])}",
                    "Add one to view/ of your own folder: -cd DIR",
                )
            view = found[0]
    for run in runs:
        run.view = view
    return view


def _can_answer(runs: Sequence[Run], view: View) -> bool:
    return all(view.assign(run.meanings) is not None for run in runs)


def _explain(run: Run, view: View) -> str:
    """Return why a run cannot answer a view: one of its classes stands for several of the view, or one is missing."""
    name = run.label or run.name
    for own, stands_for in run.meanings.items():
        if len({view.find_class(each) for each in stands_for}) > 1:
            return f"view={view.name}: {name} cannot answer it, since its class {own} is {' or '.join(stands_for)}."
    known = {view.find_class(each) for stands_for in run.meanings.values() for each in stands_for}
    missing = next(each for each in view.classes if each not in known)
    return f"view={view.name}: {name} cannot answer it, since it does not know the class {missing}."


def _list_answerable(run: Run) -> str:
    names = [f"view={view.name}" for view in read_views().values() if _can_answer([run], view)]
    return f"It can answer {', '.join(names)}." if names else "It can answer no view."
