"""Cautions that go with every prediction, wherever it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from avatar_bench.i18n import _


def list_cautions(columns: Iterable[Any] = ()) -> list[str]:
    """Return the two cautions of every prediction, and those of further PredictionColumns, in the current language."""
    return [
        _("A prediction means that an image resembles the training images of a class; it does not prove its origin."),
        _("On sources other than those it was evaluated on, a network can be far less accurate."),
        *(caution for each in columns for caution in each.list_cautions()),
    ]
