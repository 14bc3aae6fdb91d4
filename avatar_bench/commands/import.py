"""import: make a run folder of a detector made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.config.options import option, path_option
from avatar_bench.config.schema import guard_option
from avatar_bench.console.terminal import print_line
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.files.output_folder import new_folder

_DETECTOR: dict[str, Any] = {"choices": lambda: find_entries("detector"), "entries": "detector"}


@dataclass
class ImportConfig:
    """Options of a detector of any kind; `find_schema` adds those of each kind."""

    options_of: ClassVar[str] = "detector"
    kind: str = option(MISSING, help="kind of the detector", example="predictions file=scores.csv", **_DETECTOR)
    out: str = path_option("run folder", MISSING, example="runs/detector")
    classes: dict[str, Any] = option({}, help="{its class: class of the data sets}; none: same names", is_open=True)
    trained_on: str | None = path_option("its training images: a manifest, or a list of SHA-256; null: unknown")
    licence: str | None = option(None, help="licence of the detector; null: unknown")
    origin: str | None = option(None, help="where the detector comes from; null: unknown")
    options: dict[str, Any] = option({}, help="of a detector of your own", is_open=True)
    allow: list[str] = guard_option("missing_rows", "upload")


def execute(settings: ImportConfig) -> Path:
    """Write the run folder `out` of the detector that the options describe, and return it.

    Raise ConfigError for an option, DataError or GuardError for content that cannot be used or an `out` that is not
    empty, OutputError if it cannot be written; after an error, nothing is written.
    """
    entry = find_entry("detector", settings.kind, f"kind={settings.kind}")
    general = {member.name for member in fields(ImportConfig)}
    values = {name: value for name, value in vars(settings).items() if name not in general and value not in (None, {})}
    options: dict[str, Any] = values | settings.options
    out = Path(settings.out).expanduser()
    with new_folder(out) as part:
        from avatar_bench.inference.detectors import CONTENTS, import_files, rename_classes
        from avatar_bench.results.view import find_meanings
        from avatar_bench.runs.imported import hash_detector, write_training_images
        from avatar_bench.runs.record import IMPORTED, RunRecord
        from avatar_bench.runs.run_images import TRAINED_ON
        from avatar_bench.training.environment import read_versions

        (part / CONTENTS).mkdir()
        content = import_files(entry, options, part / CONTENTS, settings.allow)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        record = RunRecord(status=IMPORTED, started=now, finished=now, command="import", name=out.name)
        record.kind, record.allow, record.versions = entry.name, list(settings.allow), read_versions()
        record.licence = settings.licence or entry.about.get("licence")
        record.source = settings.origin or entry.about.get("origin")
        record.class_map = settings.classes or entry.about.get("classes") or find_meanings(content["classes"])
        names = rename_classes(content["classes"], record.class_map)
        record.classes, record.detector = names, content
        if settings.trained_on is not None:
            images = write_training_images(Path(settings.trained_on), part / TRAINED_ON)
            digest = sha256_of_file(part / TRAINED_ON)
            counts = images.frame["label"].value_counts()
            record.split = {"train_counts": counts.to_dict()} if set(counts.index) == set(record.classes) else {}
            record.trained_on = {"n": len(images), "root": str(images.root), "images_sha256": digest}
        record.checkpoint_sha256 = hash_detector(part / CONTENTS, record)
        record.write(part)
    known = f"{len(images)} training images" if settings.trained_on is not None else "training data unknown"
    described = []
    for label, name in zip(content["classes"], names, strict=True):
        stands_for = record.class_map.get(label, label)
        others = [] if isinstance(stands_for, str) else [merged for merged in stands_for if merged != name]
        described.append(f"{name} ({', '.join(others)})" if others else name)
    print_line(f"{out}: {entry.name}, classes {', '.join(described)}; {known}")
    return out
