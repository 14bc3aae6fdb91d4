"""Readers of image sources, one module per kind of source."""

from __future__ import annotations

from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.sources.readers import archive, drawn, folder, huggingface, manifest, package, urls
from avatar_bench.sources.readers.package import download_packages
from avatar_bench.sources.readers.reader import COMMON_KEYS, DESCRIPTION_KEYS, Source, SourceJob, SourceReader

__all__ = ["SOURCE_READERS", "Source", "SourceJob", "SourceReader", "check_source", "download_packages"]

SOURCE_READERS: dict[str, SourceReader] = {
    "package": package.PACKAGE_READER,
    "drawn": drawn.DRAWN_READER,
    "folder": folder.FOLDER_READER,
    "archive": archive.ARCHIVE_READER,
    "urls": urls.URL_READER,
    "huggingface": huggingface.HUGGINGFACE_READER,
    "manifest": manifest.MANIFEST_READER,
}


def check_source(name: str, source: Source) -> None:
    """Raise ConfigError for a source of unknown kind, an unknown or missing option, or an invalid value."""
    if missing := [key for key in ("kind", *DESCRIPTION_KEYS) if source.get(key) is None]:
        raise ConfigError(f"source.{name} has no {', '.join(missing)}.", "Add the missing options.")
    kind = SOURCE_READERS.get(source["kind"])
    if kind is None:
        raise ConfigError(f"source.{name}.kind={source['kind']}: expected one of {', '.join(SOURCE_READERS)}.")
    known = [*COMMON_KEYS, *(key for choice in kind.required for key in choice.split("|")), *kind.optional]
    for key in source:
        if key not in known:
            near = suggest_names(str(key), known) or f"expected one of: {', '.join(known)}."
            raise ConfigError(f"source.{name} of kind {source['kind']} has no option {key}: {near}")
    for key in DESCRIPTION_KEYS:
        if not isinstance(source[key], str):
            raise ConfigError(f"source.{name}.{key}={source[key]}: expected a string.")
    if not isinstance(source.get("rasterise") or False, bool):
        raise ConfigError(f"source.{name}.rasterise={source['rasterise']}: expected true or false.")
    for choice in kind.required:
        _check_alternatives(name, source, choice.split("|"))
    kind.check(name, source)


def _check_alternatives(name: str, source: Source, keys: list[str]) -> None:
    given = [key for key in keys if source.get(key) not in (None, "", [], {})]
    if len(given) == 1:
        return
    problem = f"has several of them: {' and '.join(given)}" if given else "has no input"
    expected = " or ".join(f"source.{name}.{key}=" for key in keys)
    raise ConfigError(f"source.{name} {problem}.", f"Expected {'one of ' if len(keys) > 1 else ''}{expected}")
