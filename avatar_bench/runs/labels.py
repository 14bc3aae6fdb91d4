"""Runs of a comparison with unique labels and with the names of their recipes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar_bench.runs.record import RECORD, RunRecord, read_config, read_record
from avatar_bench.runs.run_config import flatten_options

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
    first = {key: keys.index(key) for key in keys}  # the place of the first run of each recipe
    named = [_name_recipe(records[first[key]], recipes[first[key]]) or folders[first[key]].name for key in keys]
    by_key = dict(zip(keys, _add_differences(named, keys, recipes), strict=True))
    unique = _disambiguate_names(list(by_key.values()), [folders[first[key]] for key in by_key])
    by_key = dict(zip(by_key, unique, strict=True))
    names = [by_key[key] for key in keys]
    labels = [
        f"{name} · seed {record.seed}" if names.count(name) > 1 else name
        for name, record in zip(names, records, strict=True)
    ]
    labels = _disambiguate_names(labels, folders)
    return [LabelledRun(*row) for row in zip(folders, labels, names, records, configs, strict=True)]


def describe_recipes_without(
    options: Sequence[str], records: Sequence[RunRecord], configs: Sequence[dict[str, Any]]
) -> list[tuple[str, str]]:
    """Return for each run a key and a name shared by runs that differ only in seed and some options.

    Recipes of one name also get the options in which they differ, unless these are too many.
    """
    recipes = [_flatten_recipe(config, options) for config in configs]
    keys = [_build_key(recipe) if recipe else "" for recipe in recipes]
    names = [_name_recipe(record, recipe) for record, recipe in zip(records, recipes, strict=True)]
    return list(zip(keys, _add_differences(names, keys, recipes), strict=True))


def _add_differences(names: Sequence[str], keys: Sequence[str], recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names (N,) of recipes with, where several recipes have one name, the options that differ."""
    longer = dict(zip(zip(names, keys, strict=True), names, strict=True))
    for name in set(names):
        alike = [key for other, key in longer if other == name]
        differences = _name_differences([recipes[keys.index(key)] for key in alike]) if len(alike) > 1 else [""]
        longer |= {(name, key): f"{name} {text}".strip() for key, text in zip(alike, differences, strict=True)}
    return [longer[pair] for pair in zip(names, keys, strict=True)]


def _name_differences(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the options in which recipes differ, as typed on the command line; "" if there are too many."""
    options = sorted({option for recipe in recipes for option in recipe})
    differing = [
        option
        for option in options
        if len({json.dumps(recipe_options.get(option), default=str) for recipe_options in recipes}) > 1
    ]
    if len(differing) > _MAX_NAMED_OPTIONS:
        return [""] * len(recipes)
    return [
        ", ".join(f"{option}={_format_value(recipe_options.get(option))}" for option in differing)
        for recipe_options in recipes
    ]


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
    places = [longer[: index + 1].count(name) for index, name in enumerate(longer)]
    return [f"{name} {index}" if index > 1 else name for name, index in zip(longer, places, strict=True)]
