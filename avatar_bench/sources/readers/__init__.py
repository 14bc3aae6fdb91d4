"""The kinds of source: how each gives its images."""

from __future__ import annotations

from avatar_bench.errors import ConfigError, did_you_mean
from avatar_bench.sources.readers import archive, drawn, folder, huggingface, manifest, package, urls
from avatar_bench.sources.readers.package import fetch_all
from avatar_bench.sources.readers.reader import COMMON, DESCRIPTION, Job, Kind, Source

__all__ = ["KINDS", "Job", "Kind", "Source", "check_source", "fetch_all"]

KINDS: dict[str, Kind] = {
    "package": package.KIND,
    "drawn": drawn.KIND,
    "folder": folder.KIND,
    "archive": archive.KIND,
    "urls": urls.KIND,
    "huggingface": huggingface.KIND,
    "manifest": manifest.KIND,
}


def check_source(name: str, source: Source) -> None:
    """Raise ConfigError for a source of unknown kind, an unknown or a missing option, or a wrong value."""
    if missing := [key for key in ("kind", *DESCRIPTION) if source.get(key) is None]:
        raise ConfigError(f"source.{name} does not say its {' and '.join(missing)}.")
    kind = KINDS.get(source["kind"])
    if kind is None:
        raise ConfigError(f"source.{name}.kind={source['kind']}: expected one of {', '.join(KINDS)}.")
    known = [*COMMON, *(key for choice in kind.required for key in choice.split("|")), *kind.optional]
    for key in source:
        if key not in known:
            near = did_you_mean(str(key), known) or f"it has: {', '.join(known)}."
            raise ConfigError(f"source.{name} of kind {source['kind']} has no option {key}: {near}")
    for key in DESCRIPTION:
        if not isinstance(source[key], str):
            raise ConfigError(f"source.{name}.{key}={source[key]}: expected a text.")
    if not isinstance(source.get("rasterise") or False, bool):
        raise ConfigError(f"source.{name}.rasterise={source['rasterise']}: expected true or false.")
    for choice in kind.required:
        _one_of(name, source, choice.split("|"))
    kind.check(name, source)


def _one_of(name: str, source: Source, keys: list[str]) -> None:
    given = [key for key in keys if source.get(key) not in (None, "", [], {})]
    if len(given) == 1:
        return
    said = f"says {' and '.join(given)}" if given else "does not say what to read"
    expected = " or ".join(f"source.{name}.{key}=" for key in keys)
    raise ConfigError(f"source.{name} {said}.", f"Expected {'one of ' if len(keys) > 1 else ''}{expected}")
