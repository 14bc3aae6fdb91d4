"""Cautions that go with every prediction, wherever it is shown."""

from __future__ import annotations

from avatar_bench.i18n import _


def list_cautions(has_evidence: bool) -> list[str]:
    """Return the two cautions of every prediction, and that of evidence in files, in the current language."""
    cautions = [
        _("A prediction means that an image resembles the training images of a class; it does not prove its origin."),
        _("On sources other than those it was evaluated on, a network can be far less accurate."),
    ]
    evidence = _(
        "Evidence is what a file says of itself: metadata can be forged or stripped, and a file without evidence may "
        "be of any class."
    )
    return [*cautions, evidence] if has_evidence else cautions
