"""Reading of YAML files within limits on size and depth, without aliases."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from avatar_bench.errors import ConfigError

MAX_YAML_BYTES = 1 << 18  # the longest of this package, the Russian catalogue, has 121 kB
MAX_YAML_DEPTH = 50

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(file: Path) -> Any:
    """Read a YAML file as plain values; raise ConfigError with its name if `read_checked_text` does."""
    text = read_checked_text(file)
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise _make_read_error(file, error) from error


def read_checked_text(file: Path) -> str:
    """Return the text of a YAML file within the limits; raise ConfigError with its name for any other."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{file} is not a regular file.", "Expected a YAML file.")
        with file.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            raise _make_limit_error(file, f"it is larger than {MAX_YAML_BYTES} bytes")
        text = data.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, _Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise _make_limit_error(file, f"it is nested more than {MAX_YAML_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):  # aliases of aliases multiply, and a list may contain itself
                raise _make_limit_error(file, f"it uses an alias, *{event.anchor}")
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise _make_read_error(file, error) from error
    return text


def _make_limit_error(file: Path, why: str) -> ConfigError:
    return ConfigError(f"{file}: {why}.", "Such files are refused: write values out, and put long lists into a CSV.")


def _make_read_error(file: Path, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return ConfigError(f"{file} cannot be read as YAML: {reason}")
