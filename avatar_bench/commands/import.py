"""import: make a run folder of a detector made elsewhere."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from avatar_bench.config.entries import find_entry
from avatar_bench.config.schema import ImportConfig
from avatar_bench.console.terminal import print_line
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.files.output_folder import new_folder


def execute(settings: ImportConfig) -> Path:
    """Write the run folder `out` of the detector that the options describe, and return it.

    Raise ConfigError for an option, DataError or GuardError for content that cannot be used or an `out` that is not
    empty, OutputError if it cannot be written; after an error, nothing is written.
    """
    entry = find_entry("detector", settings.kind, f"kind={settings.kind}")
    general = {each.name for each in fields(ImportConfig)}
    own = {name: value for name, value in vars(settings).items() if name not in general and value not in (None, {})}
    options: dict[str, Any] = own | settings.options
    out = Path(settings.out).expanduser()
    with new_folder(out) as part:
        from avatar_bench.inference.detectors import CONTENTS, import_files, rename_classes
        from avatar_bench.results.view import find_meanings
        from avatar_bench.runs.imported import hash_detector, write_training_images
        from avatar_bench.runs.record import IMPORTED, RunRecord
        from avatar_bench.runs.run_images import TRAINED_ON
        from avatar_bench.training.environment import read_versions

        (part / CONTENTS).mkdir()
        found = import_files(entry, options, part / CONTENTS, settings.allow)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        record = RunRecord(status=IMPORTED, started=now, finished=now, command="import", name=out.name)
        record.kind, record.allow, record.versions = entry.name, list(settings.allow), read_versions()
        record.licence = settings.licence or entry.about.get("licence")
        record.source = settings.origin or entry.about.get("origin")
        record.class_map = settings.classes or entry.about.get("classes") or find_meanings(found["classes"])
        names = rename_classes(found["classes"], record.class_map)
        record.classes, record.detector = names, found
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
    for own, name in zip(found["classes"], names, strict=True):
        stands_for = record.class_map.get(own, own)
        others = [] if isinstance(stands_for, str) else [each for each in stands_for if each != name]
        described.append(f"{name} ({', '.join(others)})" if others else name)
    print_line(f"{out}: {entry.name}, classes {', '.join(described)}; {known}")
    return out
