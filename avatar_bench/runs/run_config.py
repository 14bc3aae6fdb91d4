"""Configuration that a run folder states, which somebody else may have written: what it may name, and former names."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from avatar_bench.config.catalogue import find_choices, find_yaml_folders
from avatar_bench.config.entries import find_user_folders
from avatar_bench.config.validation import (
    TARGET,
    escape_interpolations,
    find_nodes,
    list_nodes,
    truncate,
    walk_values,
)
from avatar_bench.errors import ConfigError
from avatar_bench.files.yaml_io import read_yaml

NODES = ("optimizer", "schedule", "callbacks", "logger", "trainer")  # groups whose options name classes by it
# a run folder may name the classes that these libraries define and that are of one of these kinds
_LIBRARIES = ("torch.optim", "timm.optim", "timm.scheduler", "pytorch_lightning.callbacks", "pytorch_lightning.loggers")
_LOGGER = "pytorch_lightning.loggers.logger.Logger"
_KINDS = {
    *("torch.optim.optimizer.Optimizer", "torch.optim.lr_scheduler.LRScheduler", "timm.scheduler.scheduler.Scheduler"),
    *("pytorch_lightning.callbacks.callback.Callback", _LOGGER),
}
_LOCAL_LOGGERS = ("CSVLogger", "TensorBoardLogger")  # the others ask the network, or write where they are told
_FOLDER_ARGUMENTS = ("dirpath", "save_dir")


def check_run_config(stored: Mapping[str, Any], file: Path, typed: Any = ()) -> dict[str, Any]:
    """Return the configuration of a run, which somebody else may have written, with the names that options have now.

    Raise ConfigError if it names other code than what the user has typed, what a yaml of the project or of his folders
    names, classes of modules in his folders, and optimizers, schedules, callbacks and loggers of torch, timm and
    Lightning.
    """
    values = rename_options(stored)
    nodes = list(find_nodes(values))
    own_targets = [node[TARGET] for node in _list_own_nodes(typed)] if nodes else []
    for option, node in nodes:
        is_known = (target := node[TARGET]) in own_targets or _is_own_class(target)
        if not is_known and not _list_kinds(target) & _KINDS:
            shown = f"{option}.{TARGET}".lstrip(".")
            raise ConfigError(
                f"{file}: {shown}={truncate(target)}: a run folder cannot name code to run.",
                "If it is yours, give the folder of its module, or whose yaml names it: -cd DIR",
            )
    return values


def read_run_config(file: Path, typed: Mapping[Any, Any]) -> dict[str, Any]:
    """Read the saved configuration of a run folder, with interpolations escaped, to resume it; see check_run_config.

    Raise ConfigError, too, if it is not a mapping or exceeds the limits of yaml_io.
    """
    if not isinstance(values := read_yaml(file), dict):
        raise ConfigError(f"{file} is not a run configuration.")
    return escape_interpolations(check_run_config(values, file, typed))  # type: ignore[no-any-return]


def refuse_outward_nodes(values: Any, typed: Any) -> None:
    """Raise ConfigError if resuming a run would build what asks the network or may write outside of its folder.

    What equals a node that the user has typed, or one of a yaml of the project or of his folders, is accepted.
    """
    for option, node in find_nodes(values):
        target, kinds = node[TARGET], _list_kinds(node[TARGET])
        outward = [(TARGET, target)] if _LOGGER in kinds and target.rpartition(".")[2] not in _LOCAL_LOGGERS else []
        outward += [(key, value) for _, key, value in walk_values(node) if _leads_out(key, value)]
        if outward and node not in _list_own_nodes(typed):
            key, value = outward[0]
            raise ConfigError(
                f"{option}.{key}={truncate(value)}: a run folder cannot choose it.",
                f"If it is yours, repeat the options of {option.partition('.')[0]} beside resume=",
            )


def _leads_out(key: str, value: Any) -> bool:
    """Return whether an argument may be an address, or a path outside of the run folder, which {folder} stands for."""
    if key == "_args_" or not isinstance(value, str):
        return key == "_args_" or (key in _FOLDER_ARGUMENTS and value is not None)
    elsewhere = value.startswith(("/", "~")) or ":/" in value or ".." in value or "\\" in value
    return elsewhere or (key in _FOLDER_ARGUMENTS and not value.startswith("{folder}"))


def _list_kinds(target: str) -> set[str]:
    """Return the names of the classes that a class of the libraries derives from; none for anything else."""
    (module, _, name), libraries = target.rpartition("."), tuple(f"{library}." for library in _LIBRARIES)
    try:
        member = vars(import_module(module)).get(name) if target.startswith(libraries) else None
    except (ImportError, ValueError):
        return set()
    if not isinstance(member, type) or not f"{member.__module__}.".startswith(libraries):
        return set()
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in member.__mro__}


def _is_own_class(target: str) -> bool:
    """Return whether a module in a folder of the user defines a class, which is found without running the module."""
    module, _, name = target.rpartition(".")
    files = [folder.joinpath(*module.split(".")).with_suffix(".py") for folder in find_user_folders() if module]
    try:
        statements = [part for file in files if file.is_file() for part in ast.parse(file.read_bytes()).body]
    except (SyntaxError, ValueError):  # of a broken module
        return False
    return any(isinstance(part, ast.ClassDef) and part.name == name for part in statements)


def _list_own_nodes(typed: Any) -> list[Mapping[str, Any]]:
    return [*(node for _, node in find_nodes(typed)), *list_nodes(tuple(find_yaml_folders()))]


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
