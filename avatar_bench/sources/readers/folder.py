"""Image folders, with classes by folder, by option or by path rules, and an optional manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from avatar_bench.config.options import option, path_option
from avatar_bench.data.folders import find_split_folders, raise_unreadable
from avatar_bench.data.user_tables import locate_rows
from avatar_bench.errors import ConfigError, DataError, suggest_names
from avatar_bench.sources import reader
from avatar_bench.sources.reader import Source, SourceImage, SourceJob, SourceReader

OUTCOME_KEYS = ("label", "source", "group", "generator")
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
IGNORED_FILES = ("thumbs.db", "desktop.ini", "icon\r")  # written by file managers; hidden files are skipped too


@dataclass(kw_only=True)
class ImageFolder(SourceReader):
    alternatives = ("root", "roots")

    root: str | None = path_option("the folder")
    roots: dict[str, str] | None = path_option("or several: {source name: folder}", is_open=True)
    rules: list[Any] | None = option(
        None, help="[{glob or regex: ..., label: ..., source: ..., group: ..., generator: ...}] of paths below root"
    )
    manifest: str | None = path_option("a CSV with a column path and further ones of each file")

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Yield the images below `root` or `roots`, sorted; quarantine those without a class; raise DataError."""
        if self.root:
            yield from self.read_root(job, reader.resolve_path(self.root))
        for name, root in sorted((self.roots or {}).items()):
            yield from self.read_root(job, reader.resolve_path(root), source=str(name))

    def read_root(self, job: SourceJob, root: Path, source: str = "") -> Iterator[SourceImage]:
        """Yield the images below one root; the name of `source`, if any, is put before their paths."""
        if not root.is_dir():
            raise DataError(f"source.{job.name}: {root} is not a folder.", "Expected a folder of images.")
        rules = compile_rules(job.name, self.rules or [])
        manifest = reader.resolve_path(self.manifest) if self.manifest else None
        rows = _read_rows(manifest, root) if manifest else {}
        if manifest and not any((root / below).is_file() for below in rows):
            reason = f"source.{job.name}.manifest: {manifest} lists no file in {root}."
            raise DataError(reason, "Expected paths relative to the manifest.")
        splits = [] if self.rules or job.source["label"] else find_split_folders(root)
        for below in _walk(job, root):
            row = rows.pop(below, {})
            name = f"{source}/{below}" if source else below
            if name in job.done or root / below == manifest:
                continue
            try:
                if rules:
                    columns = {"label": str(job.source["label"])} | match_rules(below, rules)
                else:
                    columns = {} if job.source["label"] else _parse_folders(below, splits)
                known = {"source": source} | {key: value for key, value in columns.items() if value}
                listed = reader.extract_fields(row)
                for key in ("label", "split"):
                    if known.get(key) and listed.get(key, known[key]) != known[key]:
                        raise ValueError(f"{key} is {known[key]} by its path, {listed[key]} in the manifest")
                yield SourceImage(name=name, content=root / below, **known | listed)
            except ValueError as error:
                job.quarantine.append((name, str(error)))
        missing = f"listed in {manifest.name if manifest else ''}, missing in {root.name}"
        job.quarantine += [(below, missing) for below in sorted(rows)]

    def check(self, name: str, source: Source) -> None:
        """Raise ConfigError for invalid rules, or rules without a class."""
        rules: Any = self.rules or []
        if not isinstance(rules, list) or not all(isinstance(rule, Mapping) for rule in rules):
            raise ConfigError(
                f"source.{name}.rules={rules}: expected a list such as [{{glob: '*.png', label: drawing}}]."
            )
        for number, rule in enumerate(compile_rules(name, rules), start=1):
            if not (rule.outcome.get("label") or "label" in rule.pattern.groupindex or source.get("label")):
                raise ConfigError(f"source.{name}.rules: rule {number} has no class.", "Add a label to the rule.")

    def hash_state(self) -> str:
        """Return a hash that changes with the paths, sizes and times of the files."""
        roots = [self.root] if self.root else sorted((self.roots or {}).values())
        facts: list[Any] = [reader.read_stamp(reader.resolve_path(self.manifest)) if self.manifest else ()]
        for root in map(reader.resolve_path, roots):
            files = (Path(folder, name) for folder, _, names in _walk_readable(root) for name in names)
            facts.append(sorted((file.relative_to(root).as_posix(), *reader.read_stamp(file)) for file in files))
        return reader.hash_facts(facts)


def _walk_readable(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder; raise DataError for a folder in it that cannot be read, since its images would seem deleted."""

    def refuse(error: OSError) -> None:
        is_hidden = any(name.startswith(".") for name in Path(error.filename).relative_to(root).parts)
        if not is_hidden and not isinstance(error, FileNotFoundError):
            raise_unreadable(error)

    return os.walk(root, onerror=refuse)


def _walk(job: SourceJob, root: Path) -> Iterator[str]:
    """Return the relative paths of possible images, sorted; quarantine all other paths."""
    listed: list[str] = []
    for folder, folders, files in _walk_readable(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(folder, name) for name in files if not name.startswith(".") and name.lower() not in IGNORED_FILES]
        for path in paths + [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]:
            below = path.relative_to(root).as_posix()
            if reason := _explain_unusable(path, below, root):
                job.quarantine.append((below.encode(errors="backslashreplace").decode(), reason))
            else:
                listed.append(below)
    return iter(sorted(listed))


def _explain_unusable(path: Path, below: str, root: Path) -> str:
    """Describe why a path cannot be an image; return "" if it can."""
    if below.encode(errors="replace").decode() != below:
        return "its name is not UTF-8"
    if path.is_symlink():
        if path.is_dir():
            return "a link to a folder, which is not followed"
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            return "a link that leads out of the folder"
    # not methods of Path, which raise on a link to itself
    return "" if os.path.isfile(path) else "not a file" if os.path.exists(path) else "a broken link"


def _parse_folders(below: str, splits: list[str]) -> dict[str, str]:
    """Parse class, source and split from a path, [split/]class/[source/]...; raise ValueError if it has no class."""
    folders, split = below.split("/")[:-1], ""
    if splits:
        if not folders or folders[0] not in splits:
            raise ValueError(f"outside the folders {', '.join(splits)}")
        split, *folders = folders
    if not folders:
        raise ValueError("not in a class folder")
    return {"label": folders[0], "source": folders[1] if len(folders) > 1 else "", "split": split}


def _read_rows(file: Path, root: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a manifest for files below `root`, by relative path."""
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(table := reader.read_rows(file, "path")):
        path = Path(os.path.normpath(file.parent / row["path"]))
        if not path.is_relative_to(root):
            continue
        below = path.relative_to(root).as_posix()
        if below in rows:
            location = locate_rows(file, len(table))[number]
            raise DataError(f"{file}, {location}: {row['path']} is listed twice.", "Expected one row a file.")
        rows[below] = row
    return rows


class PathRule(NamedTuple):
    """A pattern for whole paths, and the fields of the paths that match."""

    pattern: re.Pattern[str]
    outcome: dict[str, str]


def compile_rules(name: str, rules: Sequence[Mapping[str, Any]]) -> list[PathRule]:
    """Compile the rules of a source; raise ConfigError for an invalid rule."""
    return [_compile_rule(f"source.{name}.rules: rule {number}", rule) for number, rule in enumerate(rules, start=1)]


def match_rules(path: str, rules: Sequence[PathRule]) -> dict[str, str]:
    """Return the fields of a path ("/" between folders) by the rules; raise ValueError if none match or two differ."""
    matched: dict[int, dict[str, str]] = {}
    for number, rule in enumerate(rules, start=1):
        if match := rule.pattern.fullmatch(path):
            named = {key: value for key, value in match.groupdict().items() if value and key in OUTCOME_KEYS}
            matched[number] = rule.outcome | named
    if not matched:
        raise ValueError("no rule matches")
    first, outcome = next(iter(matched.items()))
    for number, other in matched.items():
        if other != outcome:
            raise ValueError(f"ambiguous: rules {first} and {number} differ")
    return outcome


def translate_glob(glob: str) -> str:
    """Translate a glob to a regular expression for whole paths: `*` and `?` stay in a folder, `**` crosses folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\])", glob)
    for number, part in enumerate(parts):
        inner = part[1:-1].replace("\\", r"\\")
        letters = f"(?!/)[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
        parts[number] = _GLOB.get(part) or (letters if number % 2 else re.escape(part))
    return "".join(parts)


def _compile_rule(where: str, rule: Mapping[str, Any]) -> PathRule:
    known = ("glob", "regex", *OUTCOME_KEYS)
    for key in rule:
        if key not in known:
            nearest = suggest_names(str(key), known, f"; expected {', '.join(known)}")
            raise ConfigError(f"{where} has no option {key}{nearest}")
    patterns = [key for key in ("glob", "regex") if rule.get(key)]
    if len(patterns) != 1:
        raise ConfigError(f"{where} needs either glob or regex.", "For example: {glob: 'faces/**', label: real}")
    text = str(rule[patterns[0]])
    try:
        pattern = re.compile(translate_glob(text) if patterns == ["glob"] else text)
    except re.error as error:
        raise ConfigError(f"{where}: {patterns[0]} {text!r} is invalid: {error}.") from error
    return PathRule(pattern, {key: str(rule[key]) for key in OUTCOME_KEYS if rule.get(key)})
