"""Views, which merge the classes of data and of runs alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from avatar_bench.config.catalogue import find_choices
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import read_yaml
from avatar_bench.files.paths import make_folder_name

ALL = "all"  # the view that leaves every class as it is
DIRECTION = "higher_is_"  # before the class that a high score means
SEPARATOR = "--"  # between the set and the view in the name of a folder


@dataclass(frozen=True)
class View:
    """New classes, each with the names of the classes that it merges; without any, every class is as it is.

    Images of other classes are left out.
    """

    name: str = ALL
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, classes: Mapping[str, Sequence[str]]) -> View:
        """Return the view that a yaml states; raise ConfigError unless it has two disjoint classes or more."""
        try:
            view = cls(name, {str(new): tuple(map(str, old)) for new, old in classes.items()})
        except (AttributeError, TypeError):
            view = cls("", {"": ()})
        merged = [old for names in view.classes.values() for old in names]
        is_valid = make_folder_name(view.name) == view.name and SEPARATOR not in view.name
        is_valid = is_valid and len(merged) == len(set(merged))
        if not is_valid or (view.name == ALL) == bool(merged) or (merged and len(view.classes) < 2):
            raise ConfigError(
                f"view={name}: its classes are {dict(classes) if isinstance(classes, Mapping) else classes}.",
                "Expected at least two, each with classes that no other one has: {photo: [real], art: [drawing]}",
            )
        return view

    def find_class(self, label: str) -> str:
        """Return the class of a label, "" for one that is left out or unknown; a class of the view is its own."""
        if not self.classes:
            return label
        return next((new for new, old in self.classes.items() if label in old), label if label in self.classes else "")

    def assign(self, class_map: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]] | None:
        """Return the classes of a run that each class of the view merges; None if the run cannot tell them apart.

        `class_map` states, for each class of the run, the classes that it stands for.
        """
        merged: dict[str, list[str]] = {name: [] for name in self.classes}
        for label, stands_for in class_map.items():
            names = {self.find_class(name) for name in stands_for}
            if len(names) != 1:
                return None
            if name := names.pop():
                merged.setdefault(name, []).append(label)
        return {name: tuple(label) for name, label in merged.items()} if all(merged.values()) else None

    def merge_shares(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Return the proportion of each class of the view among the images that are not left out."""
        merged: dict[str, float] = dict.fromkeys(self.classes, 0.0)
        for label, share in shares.items():
            if name := self.find_class(label):
                merged[name] = merged.get(name, 0.0) + share
        total = sum(merged.values())
        return {name: share / total for name, share in merged.items()} if total else {}

    def name_set(self, name: str) -> str:
        """Return the name of a data set in this view, which is that of the folder of its results."""
        return name if self.name == ALL else f"{name}{SEPARATOR}{self.name}"


def read_views() -> dict[str, View]:
    """Return all views by name, the finest first: those with more classes, then those that leave out fewer."""
    stated = [read_yaml(file) for file in find_choices("view").values()]
    views = [
        View.parse(str(declaration.get("name")), declaration.get("classes") or {})
        for declaration in stated
        if isinstance(declaration, dict)
    ]
    views.sort(
        key=lambda view: (view.name != ALL, -len(view.classes), -sum(map(len, view.classes.values())), view.name)
    )
    return {view.name: view for view in views}


def find_meanings(classes: Sequence[str]) -> dict[str, list[str]]:
    """Return what classes stand for that are exactly those of a view, such as generated and not_generated; else {}."""
    for view in read_views().values():
        if set(view.classes) == set(classes):
            return {new: list(dict.fromkeys([*old, new])) for new, old in view.classes.items()}
    return {}


def name_classes(score: str) -> list[str]:
    """Return the classes of a score with a direction: the one that is likelier the higher it is, and the other one."""
    positive = score.removeprefix(DIRECTION)
    return [positive, f"not_{positive}"]
