"""Detectors made elsewhere, one module per kind: their import into a folder, and their predictors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from avatar_bench.config.entries import Entry
from avatar_bench.errors import ConfigError
from avatar_bench.models.card_schema import find_class_fault

if TYPE_CHECKING:
    from avatar_bench.inference.predictor import DatasetPredictor

Settings = dict[str, Any]  # plain values, as kept in run.json


class Detector(Protocol):
    """Options of a built-in kind, by which a detector is imported."""

    def save(self, folder: Path, allow: Collection[str]) -> Settings:
        """Copy what the predictor needs into an empty folder, and return its settings.

        `classes` among them are the names in the order of the outputs. Raise ConfigError or DataError for anything
        that cannot be imported.
        """

    @staticmethod
    def open(folder: Path, settings: Settings, **common: Any) -> DatasetPredictor:
        """Return the predictor of an imported detector; `common` are the fields of every DatasetPredictor."""


def build_detector(entry: Entry, options: Mapping[str, Any]) -> Any:
    """Build the dataclass of a kind with its options; raise ConfigError for a missing, unknown or invalid one."""
    for each in fields(entry.load_class()):
        if each.default is MISSING and each.default_factory is MISSING and options.get(each.name) is None:
            raise ConfigError(f"kind={entry.name} needs {each.name}=, see: avatar-bench import --help")
    with entry.explain_failure():
        return entry.build(options)


def import_files(entry: Entry, options: Mapping[str, Any], folder: Path, allow: Collection[str]) -> Settings:
    """Import a detector of some kind into an empty folder and return its settings."""
    detector = build_detector(entry, options)
    found: Settings = detector.save(folder, allow)
    return found


def rename_classes(native: Sequence[str], class_map: Mapping[str, Any]) -> list[str]:
    """Return the names of a detector's classes, renamed where one of them stands for exactly one of a data set.

    Raise ConfigError for a class that maps to nothing, a mapping of a class that the detector lacks, and names that are
    not distinct.
    """
    described = f"The detector's classes: {', '.join(native)}."
    if class_map:
        if unknown := [name for name in class_map if name not in native]:
            raise ConfigError(f"classes: the detector has no class {unknown[0]!r}.", described)
        if lacking := [name for name in native if not class_map.get(name)]:
            raise ConfigError(f"classes: {lacking[0]!r} maps to nothing.", described, "Name a class for each of them.")
    targets = [class_map.get(name, name) for name in native]
    renamed = [
        target if isinstance(target, str) and targets.count(target) == 1 else name
        for name, target in zip(native, targets, strict=True)
    ]
    if fault := find_class_fault(renamed):
        raise ConfigError(f"The detector cannot be imported: {fault}.", described)
    return renamed


def open_detector(entry: Entry, folder: Path, settings: Settings, **common: Any) -> DatasetPredictor:
    """Return the predictor of an imported detector; `common` are the fields of every DatasetPredictor."""
    kind: Any = entry.load_class()
    found: DatasetPredictor = kind.open(folder, settings, **common)
    return found
