"""Words for classes, predictions, decisions and the accuracy of the model, as pages of predictions show them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from avatar_bench.data.dataset import DATASET_SPLITS
from avatar_bench.i18n import _
from avatar_bench.metrics.stats import wilson
from avatar_bench.metrics.units import NEW_SOURCES
from avatar_bench.reporting.saved_result import SavedResult, read_evaluation
from avatar_bench.results.result import Metric
from avatar_bench.results.view import SEPARATOR
from avatar_bench.runs.decisions import CONFIDENT, COST, UNLIKE, UNSTABLE, UNSURE
from avatar_bench.runs.run import Run

_OWN = ("test", "val", "calibration")  # sets of the training sources, the best first
CERTAIN, PROBABLE = 0.9, 0.6  # probabilities below which a prediction without a decision is worded as less certain
_MOST_NAMED = 4  # classes that a question names


def name_reasons() -> dict[str, str]:
    """Return the reasons of a decision in the current language, by their codes."""
    return {
        CONFIDENT: _("confident"),
        UNSURE: _("not sure enough"),
        UNLIKE: _("unlike the training images"),
        COST: _("least expected cost"),
        UNSTABLE: _("another answer after slight changes"),
    }


def describe_stability(row: Mapping[Hashable, Any]) -> list[tuple[str, str]]:
    """Return what pages show of the slight changes of an image, as a term with a text; [] if there were none."""
    if row.get("stability") is None:
        return []
    names = {"jpeg": _("re-encoded"), "resize": _("reduced"), "mirror": _("mirrored")}
    flips = [names[name] for name in str(row.get("flips_on") or "").split("|") if name]
    text = _("another: {changes}", changes=", ".join(flips)) if flips else _("the same")
    return [(_("Answer after slight changes"), text)]


def describe_class(name: str) -> str:
    """Return a class in words; the classes of a user as they are."""
    return {"real": _("a real photo"), "drawing": _("a drawing"), "generated": _("AI-generated")}.get(name, name)


def translate_class(name: str) -> str:
    """Return the name of a class in the current language; the classes of a user as they are."""
    return {"real": _("real"), "drawing": _("drawing"), "generated": _("generated")}.get(name, name)


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
        (CERTAIN, _("Prediction: {class_}")),
        (PROBABLE, _("Probably: {class_}")),
        (0.0, _("Not sure, perhaps: {class_}")),
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


def describe_accuracy(run: Run) -> str:
    """Return the accuracy on external images, else on those of the training sources, in the current language."""
    accuracies = {
        saved.result.set.partition(SEPARATOR)[0]: saved.result.metrics["accuracy"] for saved in _read_results(run)
    }
    external = {name: metric for name, metric in accuracies.items() if name not in DATASET_SPLITS}
    if external:
        name = "blind" if "blind" in external else max(external, key=lambda name: external[name].n)
        return _state(external[name], name)
    in_domain = next((accuracies[name] for name in _OWN if name in accuracies), None) or _read_validation(run)
    return _state(in_domain) if in_domain else _("The accuracy of this model is not measured.")


def describe_model(run: Run, is_calibrated: bool) -> str:
    """Return the accuracy of a run, and whether its probabilities are calibrated, in the current language."""
    stated = _("Its probabilities are calibrated.") if is_calibrated else _("Its probabilities are not calibrated.")
    return f"{describe_accuracy(run)} {stated}"


def _read_results(run: Run) -> Iterator[SavedResult]:
    """Yield the results of blind_test by this checkpoint and its thresholds in this view."""
    for saved in read_evaluation(run.folder) if run.folder else ():
        if not isinstance(saved, SavedResult) or saved.result.block != "blind_test" or saved.view != run.view.name:
            continue
        stated = saved.result.provenance
        is_same = stated.get("checkpoint_sha256") == run.checkpoint_sha256
        is_same &= not run.bias or stated.get("calibration_sha256") == run.calibration_sha256
        accuracy = saved.result.metrics.get("accuracy")
        if is_same and accuracy is not None and accuracy.value is not None:
            yield saved


def _read_validation(run: Run) -> Metric | None:
    """Return the accuracy that train has recorded; None for other classes or without it."""
    value, n = run.record.metrics.get("val/accuracy"), run.record.split.get("counts", {})
    if value is None or run.view.classes or not n.get("val"):
        return None
    return Metric(value, n["val"], *wilson(value * n["val"], n["val"]))


def _state(metric: Metric, external: str = "") -> str:
    assert metric.value is not None
    percent = f"{100 * metric.value:.1f}\N{NO-BREAK SPACE}%"
    if metric.low is not None and metric.high is not None:
        percent += f" [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
    if metric.population == NEW_SOURCES:
        text = _("Accuracy of this model on sources that training has not used ({set}, n = {n}): {percent}.")
    elif external:
        text = _("Accuracy of this model on {set} (n = {n}): {percent}.")
    else:
        text = _("Accuracy of this model on images set aside from its training sources (n = {n}): {percent}.")
    return text.format(set=external, n=metric.n, percent=percent)
