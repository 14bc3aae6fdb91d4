"""Words for the reasons of decisions, as pages show them."""

from __future__ import annotations

from avatar_bench.i18n import _
from avatar_bench.runs.decisions import CONFIDENT, COST, UNLIKE, UNSURE


def name_reasons() -> dict[str, str]:
    """Return the reasons of a decision in the current language, by their codes."""
    return {
        CONFIDENT: _("confident"),
        UNSURE: _("not sure enough"),
        UNLIKE: _("unlike the training images"),
        COST: _("least expected cost"),
    }
