"""Validation of configuration values before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from avatar_bench.config.catalogue import find_conf_folder
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import read_yaml

TARGET = "_target_"
NAMING_KEYS = (TARGET, "distribution")  # of a class to build, and of a package to download
INSTANTIATE_KEYS = (TARGET, "_partial_", "_args_", "_recursive_", "_convert_")  # of hydra.utils.instantiate
_COMMAND_LINE_NODES = ("hydra.overrides", "hydra.job")  # these hold command line words, which are checked as such
ALLOWED_RESOLVERS = ("hydra", "now", "python_version", "units")  # none of them exposes environment variables
_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
_ALLOWED_INTERPOLATION = re.compile(rf"\s*(?:\.*[\w.\[\]/-]+\s*\}}|(?:{'|'.join(ALLOWED_RESOLVERS)})\s*:)")


def check_values(values: Mapping[Any, Any]) -> None:
    """Raise ConfigError if what Hydra composed, unresolved, could expose a secret."""
    for parent, key, value in walk_values(values):
        if isinstance(value, str) and not parent.startswith(_COMMAND_LINE_NODES):
            check_interpolations(f"{parent}.{key}={truncate(value)}".lstrip("."), value)


def is_node(values: Mapping[Any, Any]) -> bool:
    """Return whether a mapping names a class or a package."""
    return any(isinstance(values.get(key), str) for key in NAMING_KEYS)


@cache
def list_nodes(folders: tuple[Path, ...]) -> list[Mapping[str, Any]]:
    """Return the nodes that name a class or a package in the yaml files of these folders, in the project's groups.

    Other folders in them, such as a run that somebody has shared, are not read.
    """
    groups = [group.name for group in find_conf_folder().iterdir() if group.is_dir()]
    files = (file for folder in folders for group in groups for file in sorted((folder / group).glob("*.yaml")))
    texts = ((file, file.read_text(encoding="utf-8", errors="replace")) for file in files)
    stated = [read_yaml(file) for file, text in texts if any(key in text for key in NAMING_KEYS)]
    inner = (value for _, _, value in walk_values({"": stated}))
    return [value for value in inner if isinstance(value, Mapping) and is_node(value)]


def check_interpolations(shown: str, text: str) -> None:
    """Raise ConfigError, quoting `shown`, if a text interpolates anything but other options."""
    for opening in _INTERPOLATION.finditer(text):
        if not _ALLOWED_INTERPOLATION.match(text, opening.end()):
            raise ConfigError(
                f"{shown}: expected ${{another.option}}, or ${{NAME:...}} of {', '.join(ALLOWED_RESOLVERS)}.",
                "Environment variables would be written into config.yaml.",
                "If the value is not secret, pass it on the command line: option=$VARIABLE",
            )


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


def walk_values(values: Any, option: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield each nested value as (parent option, key, value)."""
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in pairs:
        yield option, str(key), value
        if isinstance(value, Mapping | list):
            yield from walk_values(value, f"{option}.{key}".lstrip("."))
