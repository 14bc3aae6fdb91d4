"""Detectors made elsewhere, one module per kind: their import into a folder, and their predictors.

A built-in kind is a dataclass of its options with `save(folder, allow)`, which copies what the predictor needs into an
empty folder and returns its Settings, of which `classes` are the names in the order of the outputs; and with a static
`open(folder, settings, accelerator, **common)`, which returns the DatasetPredictor. `save` raises ConfigError or
DataError for anything that cannot be imported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_bench.config.entries import Entry
from avatar_bench.console.terminal import print_note
from avatar_bench.errors import CheckpointError, ConfigError, DataError, GuardError
from avatar_bench.models.card_schema import DetectorSettings, find_class_fault

if TYPE_CHECKING:
    from avatar_bench.inference.predictor import DatasetPredictor

CONTENTS = "detector"  # in the run folder: what was imported
Settings = dict[str, Any]  # plain values, as kept in run.json


def build_detector(entry: Entry, options: Mapping[str, Any]) -> Any:
    """Build the dataclass of a kind with its options; raise ConfigError for a missing, unknown or invalid one."""
    for member in fields(entry.load_class()):
        if member.default is MISSING and member.default_factory is MISSING and options.get(member.name) is None:
            raise ConfigError(f"kind={entry.name} needs {member.name}=, see: avatar-bench import --help")
    with entry.explain_failure():
        return entry.build(options)


def import_files(entry: Entry, options: Mapping[str, Any], folder: Path, allow: Collection[str]) -> Settings:
    """Import a detector of some kind into an empty folder and return its settings.

    Of a user's own, nothing is copied: it is found by its name and known by the SHA-256 of its code.
    """
    if entry.is_builtin:
        settings: Settings = build_detector(entry, options).save(folder, allow)
        try:
            DetectorSettings.read(settings)
        except ValueError as error:
            raise DataError(f"The detector cannot be imported: {error}.") from error
        return settings
    sends = _refuse_upload(entry, allow)
    detector = build_detector(entry, options)
    classes = getattr(detector, "classes", None)
    if not isinstance(classes, list | tuple) or not callable(getattr(detector, "predict", None)):
        raise ConfigError(f"kind={entry.name}: {entry.module} needs classes, a tuple of names, and predict(images).")
    return {"classes": list(classes), "options": dict(options), "sha256": entry.sha256, "uploads": sends}


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


def open_detector(
    entry: Entry, folder: Path, settings: Settings, accelerator: str, allow: Collection[str], **common: Any
) -> DatasetPredictor:
    """Return the predictor of an imported detector; `common` are the fields of every DatasetPredictor.

    Raise GuardError if a user's own has changed or sends images out, unless that is in `allow`, and CheckpointError if
    its files are missing, as in a copy of its run.json alone.
    """
    if entry.is_builtin:
        if not (folder / CONTENTS).is_dir():
            raise CheckpointError(f"{folder} has no {CONTENTS}/, where the detector is.", "Import the detector again.")
        kind: Any = entry.load_class()
        predictor: DatasetPredictor = kind.open(folder / CONTENTS, settings, accelerator, **common)
        return predictor
    from avatar_bench.inference.foreign_predictor import AnswerStore, AskedPredictor, ForeignPredictor

    if entry.sha256 != settings.get("sha256") and "detector_changed" not in allow:
        raise GuardError(
            f"detector {entry.name}: {entry.module} has changed since it was imported.",
            "Import it again, or set allow=[detector_changed], which is reported with the metrics.",
        )
    _refuse_upload(entry, allow)
    detector = build_detector(entry, settings.get("options") or {})
    if list(getattr(detector, "classes", ())) != settings["classes"]:
        raise ConfigError(f"detector {entry.name}: its classes are no longer {', '.join(settings['classes'])}.")
    store = AnswerStore(folder / "predictions" / "answers.sqlite")
    return ForeignPredictor(predictor=AskedPredictor(f"detector {entry.name}", detector, store), **common)


def _refuse_upload(entry: Entry, allow: Collection[str]) -> bool:
    """Return whether a detector sends images out, as its yaml states; raise GuardError unless that is allowed."""
    if not entry.about.get("uploads"):
        return False
    if "upload" not in allow:
        raise GuardError(
            f"detector {entry.name} sends images to others, as {entry.yaml} states.",
            "Set allow=[upload] if you may pass on these images.",
        )
    print_note(f"detector {entry.name} sends images to others (uploads: true)")
    return True
