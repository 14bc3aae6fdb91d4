"""Images in folders of one's own: class folders, one class, or rules on the paths; a CSV may say more of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources.readers.path_rules import PathRule, compile_rules, match_rules
from avatar_bench.sources.readers.reader import (
    INPUT_SPLITS,
    Source,
    SourceJob,
    SourceReader,
    extract_fields,
    fill_defaults,
    hash_facts,
    read_stamp,
    read_table,
    resolve_path,
)
from avatar_bench.sources.source_image import SourceImage

FOLDER_OPTIONS: dict[str, Any] = {"rules": None, "manifest": None}
IGNORED_FILES = ("thumbs.db", "desktop.ini", "icon\r")  # written by file managers; hidden files are skipped anyway


def read(job: SourceJob) -> Iterator[SourceImage]:
    """Give the files below `root`, or below each of `roots` (source name -> folder), sorted by their paths.

    What fits no class is added to the quarantine, never guessed. Raise DataError where a root is no folder or the
    manifest cannot be read.
    """
    said = fill_defaults(job.source, FOLDER_OPTIONS)
    if said.get("root"):
        yield from read_root(job, resolve_path(said["root"]))
    for name, root in sorted((said.get("roots") or {}).items()):
        yield from read_root(job, resolve_path(root), source=str(name))


def read_root(job: SourceJob, root: Path, source: str = "") -> Iterator[SourceImage]:
    """Give the images below one root; those of a named `source` bear its name before their paths."""
    if not root.is_dir():
        raise DataError(f"source.{job.name}: {root} is not a folder.", "Expected a folder of images.")
    said = fill_defaults(job.source, FOLDER_OPTIONS)
    rules = compile_rules(job.name, said["rules"] or [])
    manifest = resolve_path(said["manifest"]) if said["manifest"] else None
    rows = _read_rows(manifest, root) if manifest else {}
    if manifest and not any((root / below).is_file() for below in rows):
        raise DataError(
            f"source.{job.name}.manifest: {manifest} names no file in {root}.", "Its paths are relative to itself."
        )
    splits = tuple(part for part in INPUT_SPLITS if (root / part).is_dir()) if not rules and not said["label"] else ()
    for below in _walk(job, root):
        row = rows.pop(below, {})
        name = f"{source}/{below}" if source else below
        if name in job.done or root / below == manifest:
            continue
        try:
            found = _apply_rules(below, rules, said) if rules else _parse_folders(below, str(said["label"]), splits)
            known = {"source": source} | {key: value for key, value in found.items() if value}
            yield SourceImage(name=name, content=root / below, **_merge(known, row))
        except ValueError as error:
            job.quarantine.append((name, str(error)))
    job.quarantine += [
        (below, f"named in {manifest.name if manifest else ''}, not in {root.name}") for below in sorted(rows)
    ]


def list_files(root: Path) -> list[tuple[str, int, int]]:
    """Give relative path, size and time of change in ns of every file below a folder, sorted."""
    files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sorted((file.relative_to(root).as_posix(), *read_stamp(file)) for file in files)


def check_folder(name: str, source: Source) -> None:
    """Raise ConfigError for rules that cannot be understood, or that lead to no class."""
    rules = source.get("rules") or []
    if not isinstance(rules, list) or not all(isinstance(rule, Mapping) for rule in rules):
        raise ConfigError(f"source.{name}.rules={rules}: expected a list such as [{{glob: '*.png', label: drawing}}].")
    for number, rule in enumerate(compile_rules(name, rules), start=1):
        if not (rule.outcome.get("label") or "label" in rule.pattern.groupindex or source.get("label")):
            raise ConfigError(f"source.{name}.rules: rule {number} leads to no class.", "Give it a label.")


def _hash_state(source: Source) -> str:
    said = fill_defaults(source, FOLDER_OPTIONS)
    roots = [said["root"]] if said.get("root") else sorted((said.get("roots") or {}).values())
    table = read_stamp(resolve_path(said["manifest"])) if said["manifest"] else ()
    return hash_facts([table, *(list_files(resolve_path(root)) for root in roots)])


def _walk(job: SourceJob, root: Path) -> Iterator[str]:
    """Give the relative paths of the files that can be images, sorted; quarantine what cannot be one."""
    found: list[str] = []
    unread = lambda error: job.quarantine.append((str(error.filename), f"unreadable: {error.strerror}"))  # noqa: E731
    for folder, folders, files in os.walk(root, onerror=unread):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(folder, name) for name in files if not name.startswith(".") and name.lower() not in IGNORED_FILES]
        for path in paths + [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]:
            below = path.relative_to(root).as_posix()
            if reason := _explain_unusable(path, below, root):
                job.quarantine.append((below.encode(errors="backslashreplace").decode(), reason))
            else:
                found.append(below)
    return iter(sorted(found))


def _explain_unusable(path: Path, below: str, root: Path) -> str:
    """Say why a path cannot be an image, or nothing."""
    if below.encode(errors="replace").decode() != below:
        return "its name is not UTF-8"
    if path.is_symlink():
        if path.is_dir():
            return "a link to a folder, which is not followed"
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            return "a link that leads out of the folder"
    # not by methods of Path, which raise at a link that leads to itself
    return "" if os.path.isfile(path) else "not a file" if os.path.exists(path) else "a link to nothing"


def _apply_rules(below: str, rules: list[PathRule], said: Mapping[str, Any]) -> dict[str, str]:
    return {"label": str(said["label"])} | match_rules(below, rules)


def _parse_folders(below: str, label: str, splits: tuple[str, ...]) -> dict[str, str]:
    """Read class, source and split from the folders of a path: [split/]class/[source/]...; ValueError tells why not."""
    folders = below.split("/")[:-1]
    if label:
        return {}
    split = ""
    if splits:
        if not folders or folders[0] not in splits:
            raise ValueError(f"lies beside the folders {', '.join(splits)}")
        split, *folders = folders
    if not folders:
        raise ValueError("lies in no class folder")
    return {"label": folders[0], "source": folders[1] if len(folders) > 1 else "", "split": split}


def _merge(found: dict[str, str], row: Mapping[str, str]) -> dict[str, Any]:
    """Join what the place of an image says with what the manifest says; ValueError where they contradict."""
    told = extract_fields(row)
    for key in ("label", "split"):
        if found.get(key) and told.get(key, found[key]) != found[key]:
            raise ValueError(f"its place says {key} {found[key]}, the manifest {told[key]}")
    return found | told


def _read_rows(file: Path, root: Path) -> dict[str, dict[str, str]]:
    """Give the rows of a manifest that speak of files below `root`, by relative path."""
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(read_table(file, "path").to_dict("records"), start=1):
        path = Path(os.path.normpath(file.parent / str(row["path"])))
        if not path.is_relative_to(root):
            continue
        below = path.relative_to(root).as_posix()
        if below in rows:
            raise DataError(f"{file}, row {number}: {row['path']} is named a second time.", "Expected one row a file.")
        rows[below] = {str(key): str(value) for key, value in row.items()}
    return rows


FOLDER_READER = SourceReader(read, _hash_state, required=("root|roots",), optional=FOLDER_OPTIONS, check=check_folder)
