"""Configuration that a run folder states, which somebody else may have written: what it may name, and former names."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avatar_bench.config.catalogue import find_choices, find_yaml_folders
from avatar_bench.config.options import find_option
from avatar_bench.config.validation import NAMING_KEYS, escape_interpolations, is_node, list_nodes, truncate
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import read_yaml

_NODES = ("optimizer", "schedule", "callbacks", "logger", "trainer")  # groups that are compared as a whole


def read_run_config(file: Path) -> dict[str, Any]:
    """Read the saved configuration of a run, with the names that options have now and interpolations escaped.

    Raise ConfigError if it is not a mapping or exceeds the limits of files.document.
    """
    if not isinstance(values := read_yaml(file), dict):
        raise ConfigError(f"{file} is not a run configuration.")
    return escape_interpolations(rename_options(values))  # type: ignore[no-any-return]


def refuse_foreign_choices(stored: Mapping[str, Any], typed: Mapping[str, Any], schema: type, folder: Path) -> None:
    """Raise ConfigError if a configuration that this user did not write makes a choice that only he may make.

    It may name the classes and packages that a yaml of the project or of his folders names, as they stand there but for
    numbers, and paths inside of the run folder. What else a node holds, weights of the hub, several devices, addresses
    and all that leads out he has typed.
    """
    chosen = _find_leaves(typed)
    shipped = [_find_leaves(node) for node in list_nodes(tuple(find_yaml_folders()))]
    foreign = []
    for option, value, is_of_node in _list_leaves(stored, shipped):
        known = find_option(schema, option)
        is_place = option == "model.weights" or (known is not None and known[1].is_path)
        is_other = option != "out" and chosen.get(option) != value
        if is_other and (is_of_node or (isinstance(value, str) and _leads_out(option, value, is_place, folder))):
            foreign.append(f"{option}={truncate(value)}")
    devices = [(config.get("trainer") or {}).get("devices", 1) for config in (stored, typed)]
    foreign += [f"trainer.devices={devices[0]}"] * (devices[0] not in (1, devices[1]))
    if foreign:
        kinds = {f"data.kind={stored['data'].get('kind')}" for word in foreign if word.startswith("data.")}
        raise ConfigError(
            f"{foreign[0]}: a run folder cannot choose it whose config.yaml is not as a training of yours wrote it.",
            f"To resume it, repeat beside resume=: {' '.join(map(shlex.quote, [*kinds, *foreign]))}",
        )


def flatten_options(values: Any, key: str = "") -> dict[str, Any]:
    """Return nested options keyed by their dotted names, as typed on the command line; an empty group is a value."""
    if not isinstance(values, dict) or not values:
        return {key: values}
    parts = (flatten_options(value, f"{key}.{name}".strip(".")) for name, value in values.items())
    return {path: value for part in parts for path, value in part.items()}


def list_changes(words: Sequence[str], stored: Mapping[str, Any], typed: Mapping[str, Any]) -> list[str]:
    """Return the overrides that choose something else than a stored configuration, or what that does not tell.

    `typed` is the configuration that they make.
    """
    return [word for word in words if _select_options(word, typed) != _select_options(word, stored)]


def _select_options(word: str, config: Mapping[str, Any]) -> Mapping[str, Any] | str:
    """Return the options that an override sets, of a group only which choice it is, but for groups of nodes."""
    name = word.lstrip("+~").partition("=")[0]
    group = name.partition(".")[0]
    options = config.get(group)
    if name == group and isinstance(options, Mapping) and group not in _NODES:
        name = next((f"{group}.{key}" for key in ("kind", "name") if key in options), group)
    top = group if group in _NODES else name
    selected = {key: value for key, value in flatten_options(config).items() if f"{key}.".startswith(f"{top}.")}
    return selected or str(id(config))  # what neither has is a change, too


def _find_leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return each nested value that is no number by its option."""
    return {option: value for option, value, _ in _list_leaves(values)}


def _list_leaves(
    values: Any, shipped: Sequence[Mapping[str, Any]] = (), option: str = "", is_of_node: bool = False
) -> Iterator[tuple[str, Any, bool]]:
    """Yield each nested value that is no number with its option, and whether it is in a node.

    A node is left out whose own values are among those of one that is `shipped`.
    """
    if isinstance(values, Mapping | list):
        inside = isinstance(values, Mapping) and is_node(values)
        leaves = _find_leaves(values) if inside and shipped else None  # type: ignore[arg-type]
        if leaves is None or not any(leaves.items() <= node.items() for node in shipped):
            for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
                yield from _list_leaves(value, shipped, f"{option}.{key}".lstrip("."), is_of_node or inside)
    elif isinstance(values, str | bool):
        yield option, values, is_of_node


def _leads_out(option: str, value: str, is_place: bool, folder: Path) -> bool:
    """Return whether a text names code, a package, an address, or a path outside of the run folder."""
    if option.rpartition(".")[2] in NAMING_KEYS or ":" in value:
        return True
    if value in ("none", "package") and option == "model.weights":
        return False
    is_path = is_place or ".." in value or any(sign in value for sign in "/\\~")
    return is_path and not Path(value).resolve().is_relative_to(folder.resolve())


def rename_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run with the names that options have now.

    Until 0.4, optimizers, schedules, loggers and callbacks had names of this project instead of `_target_`.
    """
    groups = [values.get(name) for name in ("optimizer", "callbacks", "logger")]
    optimizer, callbacks, logger = ({**group} if isinstance(group, Mapping) else {} for group in groups)
    if not isinstance(schedule := optimizer.pop("schedule", None), Mapping) or not logger:
        return dict(values)
    momentum, base = optimizer.pop("momentum", 0.9), optimizer.pop("base", None)
    optimizer |= {"name": base or optimizer.get("name"), "adaptive": bool(optimizer.get("adaptive"))}
    if optimizer["name"] == "sgd":
        optimizer["options"] = {"momentum": momentum, "nesterov": momentum != 0}
    node = _read_choice("schedule", schedule.get("name"))
    node |= {key: value for key, value in schedule.items() if key in node}
    loggers = _read_choice("logger", logger.get("name"))
    for node_of_logger in loggers.values():
        node_of_logger |= {key: value for key, value in logger.items() if key in node_of_logger and key != "name"}
    others = dict(callbacks.get("others") or {})
    for name, argument in {"early_stopping": "patience", "ema": "decay", "swa": "start"}.items():
        if (value := callbacks.pop(name, None)) is not None:
            others[name] = _read_choice("callbacks", name)[name] | {argument: value}
    callbacks["others"] = others
    return {**values, "optimizer": optimizer, "schedule": node, "callbacks": callbacks, "logger": loggers}


def _read_choice(group: str, name: Any) -> dict[str, Any]:
    """Return what the yaml of a choice states; what a check of nodes refuses if there is none."""
    file = find_choices(group).get(str(name))
    return dict(read_yaml(file) or {}) if file else {str(name): {}}
