"""Reading of YAML files of others: of limited size and depth, without aliases, as plain values."""

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
    """Read a YAML file as plain values; raise ConfigError with its name if it is none, or exceeds the limits."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would block
            raise ValueError("it is not a regular file")
        with file.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            raise ValueError(f"it is larger than {MAX_YAML_BYTES} bytes")
        text, depth = data.decode("utf-8"), 0
        for event in yaml.parse(text, _Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):  # aliases of aliases multiply, and a list may contain itself
                raise ValueError(f"it uses an alias, *{event.anchor}")
        return yaml.load(text, _Loader)
    except (OSError, yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ConfigError(f"{file} cannot be read as YAML: {reason}") from error
