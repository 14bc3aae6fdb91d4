"""Words for classes, predictions and decisions, as pages show them."""

from __future__ import annotations

from collections.abc import Sequence

from avatar_bench.i18n import _
from avatar_bench.runs.decisions import CONFIDENT, COST, UNLIKE, UNSURE

CERTAIN, PROBABLE = 0.9, 0.6  # probabilities below which a prediction without a decision is worded as less certain
_MOST_NAMED = 4  # classes that a question names


def name_reasons() -> dict[str, str]:
    """Return the reasons of a decision in the current language, by their codes."""
    return {
        CONFIDENT: _("confident"),
        UNSURE: _("not sure enough"),
        UNLIKE: _("unlike the training images"),
        COST: _("least expected cost"),
    }


def describe_class(name: str) -> str:
    """Return a class in words; the classes of a user as they are."""
    known = {"real": _("a real photo"), "drawing": _("a drawing"), "generated": _("AI-generated")}
    return known.get(name, name)


def translate_class(name: str) -> str:
    """Return the name of a class in the current language; the classes of a user as they are."""
    known = {"real": _("real"), "drawing": _("drawing"), "generated": _("generated")}
    return known.get(name, name)


def ask_question(classes: Sequence[str]) -> str:
    """Return what a page asks of an image."""
    if {*classes} == {"real", "drawing", "generated"}:
        return _("Is this avatar a real photo, a drawing, or AI-generated?")
    if len(classes) > _MOST_NAMED:
        return _("Which of {n} classes is this image of?", n=len(classes))
    *others, last = map(describe_class, classes)
    return _("Which class is this image of: {others} or {last}?", others=", ".join(others), last=last)


def list_phrases() -> list[tuple[float, str]]:
    """Return the least probability and the words of a prediction, the most certain first."""
    return [
        (CERTAIN, _("Prediction: {class_}", class_="{class_}")),
        (PROBABLE, _("Probably: {class_}", class_="{class_}")),
        (0.0, _("Not sure, perhaps: {class_}", class_="{class_}")),
    ]


def phrase_prediction(name: str, probability: float) -> str:
    """Return a prediction in words that say how certain it is."""
    return next(words for least, words in list_phrases() if probability >= least).format(class_=name)


def explain_phrases() -> str:
    """Return from which probability on a prediction is worded as it is."""
    return _(
        "A prediction below {certain} % is worded as probable, one below {probable} % as not sure.",
        certain=f"{100 * CERTAIN:.0f}",
        probable=f"{100 * PROBABLE:.0f}",
    )
