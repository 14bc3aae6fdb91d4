"""Reading of YAML files within limits on size, depth and alias expansion."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from avatar_bench.errors import ConfigError

# No YAML written by hand reaches these limits; the longest of this package is 6 kB.
MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 20_000  # keys, values, lists and mappings, with aliases expanded
MAX_YAML_CHARACTERS = 4 * MAX_YAML_BYTES  # with aliases expanded
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
        _check_events(file, text)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise _make_read_error(file, error) from error
    return text


def _check_events(file: Path, text: str) -> None:
    """Count nodes and characters in one pass over the parser's events, keeping only the open ones."""
    anchors: dict[str | None, tuple[int, int] | None] = {}  # None: still open
    stack: list[list[Any]] = [[None, 0, 0]]  # anchor, nodes, characters
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if anchors.get(event.anchor, (0, 0)) is None:
                raise _make_limit_error(file, f"*{event.anchor} contains itself")
            _add(stack[-1], *(anchors.get(event.anchor) or (0, 0)))
        elif isinstance(event, yaml.ScalarEvent):
            anchors |= {event.anchor: (1, len(event.value))} if event.anchor else {}
            _add(stack[-1], 1, len(event.value))
        elif isinstance(event, yaml.CollectionStartEvent):
            anchors |= {event.anchor: None} if event.anchor else {}
            stack.append([event.anchor, 1, 0])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes, characters = stack.pop()
            anchors |= {anchor: (nodes, characters)} if anchor else {}
            _add(stack[-1], nodes, characters)
        if stack[-1][1] > MAX_YAML_NODES or stack[-1][2] > MAX_YAML_CHARACTERS:
            raise _make_limit_error(
                file, f"expanded, it contains more than {MAX_YAML_NODES} values or {MAX_YAML_CHARACTERS} characters"
            )
        if len(stack) > MAX_YAML_DEPTH + 1:
            raise _make_limit_error(file, f"it is nested more than {MAX_YAML_DEPTH} deep")


def _add(entry: list[Any], nodes: int, characters: int) -> None:
    entry[1] += nodes
    entry[2] += characters


def _make_limit_error(file: Path, why: str) -> ConfigError:
    return ConfigError(f"{file}: {why}.", "Such files are refused: no configuration needs them.")


def _make_read_error(file: Path, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return ConfigError(f"{file} cannot be read as YAML: {reason}")
