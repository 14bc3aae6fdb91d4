"""Validation of configuration values before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avatar_bench.errors import ConfigError
from avatar_bench.files.yaml_io import read_yaml

# special keys of hydra.utils.instantiate
INSTANTIATE_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_", "_call_")
_PLUGINS = "hydra._internal.core_plugins", "hydra_plugins"
_SAMPLERS = "TPESampler RandomSampler CmaEsSampler NSGAIISampler MOTPESampler GridSampler"
ALLOWED_TARGETS = {  # the only objects that options may build, by place: launchers and sweepers of our extras
    "hydra.launcher": (
        f"{_PLUGINS[0]}.basic_launcher.BasicLauncher",
        f"{_PLUGINS[1]}.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        f"{_PLUGINS[1]}.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        f"{_PLUGINS[1]}.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        f"{_PLUGINS[1]}.hydra_ray_launcher.ray_launcher.RayLauncher",
    ),
    "hydra.sweeper": (
        f"{_PLUGINS[0]}.basic_sweeper.BasicSweeper",
        f"{_PLUGINS[1]}.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    ),
    "hydra.sweeper.sampler": tuple(f"optuna.samplers.{name}" for name in _SAMPLERS.split()),
}
FIXED_HYDRA_OPTIONS: dict[str, Any] = {  # Hydra's own options that build objects, write files or read the environment
    "callbacks": {},
    "hydra_logging": {"root": None, "disable_existing_loggers": False},
    "job_logging": {"root": None, "disable_existing_loggers": False},
    "run": {"dir": "."},
    "output_subdir": None,
    "job.chdir": None,
    "job.env_set": {},
    "job.env_copy": [],
    "sweep.subdir": ".",
    "sweeper.custom_search_space": None,
}
_COMMAND_LINE_NODES = ("hydra.overrides", "hydra.job")  # these hold command line words, which check_override validates
ALLOWED_RESOLVERS = ("hydra", "now", "python_version", "units")  # none of them exposes environment variables
_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
_ALLOWED_INTERPOLATION = re.compile(rf"\s*(?:\.*[\w.\[\]/-]+\s*\}}|(?:{'|'.join(ALLOWED_RESOLVERS)})\s*:)")


def check_values(values: Mapping[Any, Any], where: str = "") -> None:
    """Raise ConfigError if nested, unresolved values could build an object or expose a secret.

    `where` is the file they were read from; empty for the configuration that Hydra composed, its own node included.
    """
    place = f"{where}: " if where else ""
    for around, key, value in _walk_values(values):
        option = f"{around}.{key}".lstrip(".")
        if key in INSTANTIATE_KEYS and not (key == "_target_" and value in ALLOWED_TARGETS.get(around, ())):
            raise ConfigError(
                f"{place}{option}={truncate(value)}: options cannot name an object to build.",
                "Expected plain values; put your own code into a block: a .py file beside its yaml.",
            )
        if isinstance(value, str) and not around.startswith(_COMMAND_LINE_NODES):
            check_interpolations(f"{place}{option}={truncate(value)}", value)
    if isinstance(values.get("hydra"), Mapping):
        _check_hydra_options(values["hydra"])


def check_interpolations(shown: str, text: str) -> None:
    """Raise ConfigError, quoting `shown`, if a text interpolates anything but other options."""
    for found in _INTERPOLATION.finditer(text):
        if not _ALLOWED_INTERPOLATION.match(text, found.end()):
            raise ConfigError(
                f"{shown}: expected ${{another.option}}, or ${{NAME:...}} of {', '.join(ALLOWED_RESOLVERS)}.",
                "Environment variables would be written into config.yaml.",
                "If the value is not secret, pass it on the command line: option=$VARIABLE",
            )


def read_run_config(file: Path) -> dict[str, Any]:
    """Read the saved configuration of a run folder, with interpolations escaped.

    Raise ConfigError, naming the file, if it is not a mapping, exceeds the limits of yaml_io or fails check_values.
    """
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file} is not a run configuration.")
    values = escape_interpolations(values)
    check_values(values, str(file))
    return values  # type: ignore[no-any-return]


def escape_interpolations(values: Any) -> Any:
    """Return a copy of plain values with every interpolation in a text escaped."""
    if isinstance(values, Mapping):
        return {key: escape_interpolations(value) for key, value in values.items()}
    if isinstance(values, list):
        return [escape_interpolations(value) for value in values]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", values) if isinstance(values, str) else values


def truncate(value: Any, length: int = 100) -> str:
    """Return a value as text, shortened to a number of characters."""
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _walk_values(values: Any, option: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield each nested value as (parent option, key, value)."""
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in pairs:
        yield option, str(key), value
        if isinstance(value, Mapping | list):
            yield from _walk_values(value, f"{option}.{key}".lstrip("."))


def _check_hydra_options(hydra: Mapping[str, Any]) -> None:
    for option, kept in FIXED_HYDRA_OPTIONS.items():
        value: Any = hydra
        for key in option.split("."):
            value = value.get(key, kept) if isinstance(value, Mapping) else value
        if option.startswith(("hydra_logging", "job_logging")) and isinstance(value, Mapping):
            value = {key: inner for key, inner in value.items() if key != "version"}
        if value != kept:
            raise ConfigError(
                f"hydra.{option} cannot be changed.",
                "Of Hydra's options only hydra.launcher, hydra.sweeper, hydra.mode and hydra.searchpath can be set.",
            )
