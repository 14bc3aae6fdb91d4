"""Requirements of this package and its extras, compared with the installed packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

_OURS = "avatar-bench"


@dataclass(frozen=True)
class PackageState:
    """Required package: its accepted versions, the installed one (None: missing), and the extra ("": every user's)."""

    name: str
    expected: str
    installed: str | None
    extra: str
    is_accepted: bool


def check_requirements() -> list[PackageState]:
    """Return the state of every required package on this Python; an empty list if this package is not installed."""
    try:
        known = metadata.metadata(_OURS)
    except metadata.PackageNotFoundError:  # only its folder is on the path
        return []
    required = [Requirement(line) for line in known.get_all("Requires-Dist") or []]
    extras = ["", *(known.get_all("Provides-Extra") or [])]
    return [state for extra in extras for state in _check_extra(required, extra)]


def _check_extra(required: list[Requirement], extra: str) -> Iterator[PackageState]:
    for each in required:
        is_of_all = each.marker is None or each.marker.evaluate({"extra": ""})
        is_of_extra = each.marker is not None and each.marker.evaluate({"extra": extra})
        if each.name == _OURS or not (is_of_extra and not is_of_all if extra else is_of_all):
            continue
        try:
            installed = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            installed = None
        accepted = installed is not None and each.specifier.contains(installed, prereleases=True)
        yield PackageState(each.name, str(each.specifier), installed, extra, accepted)
