"""Runs of a comparison with unique labels and with the names of their recipes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar_bench.runs.record import RECORD, flatten_options, read_config, read_record

# options that may differ between runs of one recipe: the seed, and those without effect on the weights
_RECIPE_EXCLUDED = {
    "": ("seed", "out", "init_from", "resume", "lang", "logger", "allow"),
    "data": ("workers", "blind", "ood"),
    "trainer": ("threads", "devices", "accelerator", "strategy"),
    "callbacks": ("progress",),
}
_MAX_NAMED_OPTIONS = 2  # more would make the name unreadable


@dataclass(frozen=True)
class LabelledRun:
    """Run folder with its record, configuration, unique `label` and the name of its `recipe`.

    Runs that differ only in the seed share a recipe.
    """

    folder: Path
    label: str
    recipe: str
    record: dict[str, Any]
    config: dict[str, Any]


def label_runs(folders: Sequence[Path]) -> list[LabelledRun]:
    """Label each run uniquely, with the shortest name that distinguishes its recipe from the others.

    A checkpoint file is labelled by its file name. Raises CheckpointError if a record cannot be read.
    """
    records = [read_record(folder) if (folder / RECORD).is_file() else {} for folder in folders]
    configs = [read_config(folder) for folder in folders]
    keys = [_build_recipe_key(config) or str(folder) for folder, config in zip(folders, configs, strict=True)]
    names = _name_recipes(folders, records, configs, keys)
    named = [names[key] for key in keys]
    labels = [
        f"{name} · seed {record.get('seed')}" if named.count(name) > 1 else name
        for name, record in zip(named, records, strict=True)
    ]
    labels = _disambiguate_names(labels, folders)
    return [LabelledRun(*row) for row in zip(folders, labels, named, records, configs, strict=True)]


def describe_recipes_without(
    options: Sequence[str], records: Sequence[dict[str, Any]], configs: Sequence[dict[str, Any]]
) -> list[tuple[str, str]]:
    """Return for each run a key and a name shared by runs that differ only in seed and some options.

    Recipes of one name also get the options in which they differ, unless these are too many.
    """
    reduced = [_remove_options(config, options) for config in configs]
    keys = [_build_recipe_key(config) for config in reduced]
    names = [_name_recipe(record, config) for record, config in zip(records, reduced, strict=True)]
    for name in set(names):
        alike = {key: place for place, key in reversed(list(enumerate(keys))) if names[place] == name}
        differences = _name_differences([reduced[place] for place in alike.values()]) if len(alike) > 1 else [""]
        for key, difference in zip(alike, differences, strict=True):
            for place in (place for place, other in enumerate(keys) if other == key and names[place] == name):
                names[place] = f"{name} {difference}".strip()
    return list(zip(keys, names, strict=True))


def _remove_options(config: dict[str, Any], options: Sequence[str]) -> dict[str, Any]:
    reduced = deepcopy(config)
    for *groups, last in (option.split(".") for option in options):
        parent = reduced
        for group in groups:
            parent = parent.get(group) or {}
        parent.pop(last, None)
    return reduced


def _name_recipes(
    folders: Sequence[Path], records: Sequence[dict[str, Any]], configs: Sequence[dict[str, Any]], keys: Sequence[str]
) -> dict[str, str]:
    """Map each recipe's key to a name; recipes of one name also get the options that differ, or their folder."""
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    places = sorted(first.values())
    names = [_name_recipe(records[place], configs[place]) or folders[place].name for place in places]
    for name in {name for name, count in Counter(names).items() if count > 1}:
        alike = [row for row, other in enumerate(names) if other == name]
        for row, options in zip(alike, _name_differences([configs[places[row]] for row in alike]), strict=True):
            names[row] = f"{name} {options}".strip()
    names = _disambiguate_names(names, [folders[place] for place in places])
    return {keys[place]: name for place, name in zip(places, names, strict=True)}


def _name_differences(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the options in which configurations differ, as typed on the command line; "" if there are too many."""
    selected = [_select_recipe_options(config) for config in configs]
    flat = [flatten_options(options) if options else {} for options in selected]
    options = sorted({option for one in flat for option in one})
    differing = [option for option in options if len({json.dumps(one.get(option), default=str) for one in flat}) > 1]
    if len(differing) > _MAX_NAMED_OPTIONS:
        return [""] * len(configs)
    return [", ".join(f"{option}={_format_value(one.get(option))}" for option in differing) for one in flat]


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _name_recipe(record: dict[str, Any], config: dict[str, Any]) -> str:
    """Name a recipe by its experiment, else by model, mode, shots and SAM; its pretraining and held-out sources."""
    if record.get("experiment"):
        name = str(record["experiment"])
    else:
        name = " ".join(str(record[part]) for part in ("name", "mode") if record.get(part))
        if shots := (config.get("mode") or {}).get("shots"):
            name += f" {shots} shots"
        optimizer = config.get("optimizer") or {}
        if optimizer.get("name") == "sam":
            name += f" sam {optimizer.get('rho')}" + " adaptive" * bool(optimizer.get("adaptive"))
    if method := (record.get("init") or {}).get("method"):
        name += f" from {method}"
    held_out = ((config.get("data") or {}).get("split") or {}).get("held_out")
    return f"{name} without {', '.join(map(str, held_out))}" if held_out else name


def _build_recipe_key(config: dict[str, Any]) -> str:
    """Build a text that is equal for all configurations of one recipe; empty if the configuration is unknown."""
    options = _select_recipe_options(config)
    return json.dumps(options, sort_keys=True, default=str) if options else ""


def _select_recipe_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a configuration that may affect the weights, without null ones."""
    selected = {name: value for name, value in _drop_nulls(config).items() if name not in _RECIPE_EXCLUDED[""]}
    for group, names in _RECIPE_EXCLUDED.items():
        if group and isinstance(selected.get(group), dict):
            selected[group] = {name: value for name, value in selected[group].items() if name not in names}
    return selected


def _drop_nulls(value: Any) -> Any:
    """Remove null values from nested dictionaries, and groups that contain nothing else."""
    if not isinstance(value, dict):
        return value
    reduced = {name: _drop_nulls(each) for name, each in value.items()}
    return {name: each for name, each in reduced.items() if each is not None and each != {}}


def _disambiguate_names(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Add the folder to repeated names, and a number if they still repeat."""
    counts = Counter(names)
    longer = [f"{n} ({folder.name})" if counts[n] > 1 else n for n, folder in zip(names, folders, strict=True)]
    places = [longer[: place + 1].count(name) for place, name in enumerate(longer)]
    return [f"{name} {place}" if place > 1 else name for name, place in zip(longer, places, strict=True)]
