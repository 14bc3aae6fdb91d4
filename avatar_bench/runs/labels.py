"""Runs of a comparison with unique labels and with the names of their recipes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar_bench.runs.record import RECORD, RunRecord, flatten_options, read_config, read_record

# options that may differ between runs of one recipe: the seed, and those without effect on the weights
_RECIPE_EXCLUDED = (
    *("seed", "out", "init_from", "resume", "lang", "logger", "allow", "data.workers", "data.blind", "data.ood"),
    *("trainer.threads", "trainer.devices", "trainer.accelerator", "trainer.strategy", "callbacks.progress"),
)
_MAX_NAMED_OPTIONS = 2  # more would make the name unreadable


@dataclass(frozen=True)
class LabelledRun:
    """Run folder with its record, configuration, unique `label` and the name of its `recipe`.

    Runs that differ only in the seed share a recipe.
    """

    folder: Path
    label: str
    recipe: str
    record: RunRecord
    config: dict[str, Any]


def label_runs(folders: Sequence[Path]) -> list[LabelledRun]:
    """Label each run uniquely, with the shortest name that distinguishes its recipe from the others.

    A checkpoint file is labelled by its file name. Raises CheckpointError if a record cannot be read.
    """
    records = [read_record(folder) if (folder / RECORD).is_file() else RunRecord() for folder in folders]
    configs = [read_config(folder) for folder in folders]
    recipes = [_flatten_recipe(config) for config in configs]
    keys = [_build_key(recipe) if recipe else str(folder) for folder, recipe in zip(folders, recipes, strict=True)]
    names = _name_recipes(folders, records, recipes, keys)
    named = [names[key] for key in keys]
    labels = [
        f"{name} · seed {record.seed}" if named.count(name) > 1 else name
        for name, record in zip(named, records, strict=True)
    ]
    labels = _disambiguate_names(labels, folders)
    return [LabelledRun(*row) for row in zip(folders, labels, named, records, configs, strict=True)]


def describe_recipes_without(
    options: Sequence[str], records: Sequence[RunRecord], configs: Sequence[dict[str, Any]]
) -> list[tuple[str, str]]:
    """Return for each run a key and a name shared by runs that differ only in seed and some options.

    Recipes of one name also get the options in which they differ, unless these are too many.
    """
    recipes = [_flatten_recipe(config, options) for config in configs]
    keys = [_build_key(recipe) if recipe else "" for recipe in recipes]
    names = [_name_recipe(record, recipe) for record, recipe in zip(records, recipes, strict=True)]
    for name in set(names):
        alike = {key: place for place, key in reversed(list(enumerate(keys))) if names[place] == name}
        differences = _name_differences([recipes[place] for place in alike.values()]) if len(alike) > 1 else [""]
        for key, difference in zip(alike, differences, strict=True):
            for place in (place for place, other in enumerate(keys) if other == key and names[place] == name):
                names[place] = f"{name} {difference}".strip()
    return list(zip(keys, names, strict=True))


def _name_recipes(
    folders: Sequence[Path], records: Sequence[RunRecord], recipes: Sequence[dict[str, Any]], keys: Sequence[str]
) -> dict[str, str]:
    """Map each recipe's key to a name; recipes of one name also get the options that differ, or their folder."""
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    places = sorted(first.values())
    names = [_name_recipe(records[place], recipes[place]) or folders[place].name for place in places]
    for name in {name for name, count in Counter(names).items() if count > 1}:
        alike = [row for row, other in enumerate(names) if other == name]
        for row, options in zip(alike, _name_differences([recipes[places[row]] for row in alike]), strict=True):
            names[row] = f"{name} {options}".strip()
    names = _disambiguate_names(names, [folders[place] for place in places])
    return {keys[place]: name for place, name in zip(places, names, strict=True)}


def _name_differences(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the options in which recipes differ, as typed on the command line; "" if there are too many."""
    options = sorted({option for recipe in recipes for option in recipe})
    differing = [option for option in options if len({json.dumps(one.get(option), default=str) for one in recipes}) > 1]
    if len(differing) > _MAX_NAMED_OPTIONS:
        return [""] * len(recipes)
    return [", ".join(f"{option}={_format_value(one.get(option))}" for option in differing) for one in recipes]


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _name_recipe(record: RunRecord, recipe: dict[str, Any]) -> str:
    """Name a recipe by its experiment, else by model, mode, shots and SAM; its pretraining and held-out sources."""
    if record.experiment:
        name = record.experiment
    else:
        name = " ".join(filter(None, (record.name, record.mode)))
        if shots := recipe.get("mode.shots"):
            name += f" {shots} shots"
        if rho := recipe.get("optimizer.rho"):
            name += f" sam {rho}" + " adaptive" * bool(recipe.get("optimizer.adaptive"))
    if method := record.init.get("method"):
        name += f" from {method}"
    held_out = recipe.get("data.split.held_out")
    return f"{name} without {', '.join(map(str, held_out))}" if held_out else name


def _flatten_recipe(config: dict[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the options of a configuration that may affect the weights by dotted name, but null and other ones."""
    excluded = tuple(f"{option}." for option in (*_RECIPE_EXCLUDED, *without))
    known = {name: value for name, value in flatten_options(config).items() if value is not None and value != {}}
    return {name: value for name, value in known.items() if not f"{name}.".startswith(excluded)}


def _build_key(recipe: dict[str, Any]) -> str:
    """Build a text that is equal for all configurations of one recipe."""
    return json.dumps(recipe, sort_keys=True, default=str)


def _disambiguate_names(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Add the folder to repeated names, and a number if they still repeat."""
    counts = Counter(names)
    longer = [f"{n} ({folder.name})" if counts[n] > 1 else n for n, folder in zip(names, folders, strict=True)]
    places = [longer[: place + 1].count(name) for place, name in enumerate(longer)]
    return [f"{name} {place}" if place > 1 else name for name, place in zip(longer, places, strict=True)]
