"""Captions: what each figure shows, and its text for those who do not see it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from avatar_bench.i18n import _
from avatar_bench.reporting.number_format import format_metric
from avatar_bench.results.result import Result


def find_caption(block: str, figure: str) -> str:
    """Say what a figure of a block shows; the figure's own name where it is not known here."""
    if block == "gradcam_wall" and (named := re.fullmatch(r"class_\d+_(.+)", figure)):
        return _("Images of the class {name}, model by model", name=named[1])
    return _list_captions().get(f"{block}/{figure}", figure.replace("_", " "))


def order_figures(block: str, figures: Iterable[str]) -> list[str]:
    """Give the figures of a block in the order in which they are read, the main one first."""
    known = list(_list_captions())
    places = {figure: known.index(name) for figure in figures if (name := f"{block}/{figure}") in known}
    return sorted(figures, key=lambda figure: (places.get(figure, len(known)), figure))


def describe_figure(result: Result, figure: str, owner: str) -> str:
    """Say in words what a figure shows, of whom, on which set, and the main number of its Result."""
    what = find_caption(result.block, figure)
    if owner:
        text = _("{what}, {model}, on {set}.", what=what, model=owner, set=result.set)
    else:
        text = _("{what}, all models, on {set}.", what=what, set=result.set)
    named = next(iter(result.metrics.items()), None)
    return text if named is None else f"{text} {named[0]}: {format_metric(named[1])}."


def _list_captions() -> dict[str, str]:
    return _list_run_captions() | _list_comparison_captions()


def _list_run_captions() -> dict[str, str]:
    return {
        "blind_test/confusion": _("Confusion matrix: a row is a true class, a column a prediction"),
        "blind_test/per_source": _("Accuracy by source, with intervals"),
        "blind_test/gallery_of_errors": _("The most confident errors"),
        "robustness/severity_3": _("Accuracy under each corruption at severity 3"),
        "robustness/severities": _("Accuracy, and recall of each class, by corruption and severity"),
        "robustness/delivery": _("Accuracy as images are delivered: recompressed, resized, screenshot"),
        "robustness/one_class": _("What changes when one class alone is corrupted"),
        "robustness/images": _("An image under each corruption and severity, and its prediction"),
        "robustness/images_delivered": _("An image as each way of delivery leaves it, and its prediction"),
        "calibration/reliability": _("Reliability: accuracy against confidence"),
        "calibration/confidence": _("How confident it is"),
        "calibration/coverage": _("How often sets of classes hold the true one, and how large they are"),
        "calibration/risk_coverage": _(
            "Risk against coverage: errors left when the least confident answers are refused"
        ),
        "calibration/shift": _("Coverage of the sets and calibration error on corrupted and other images"),
        "out_of_domain/shares": _("What it calls images out of domain"),
        "out_of_domain/confidence": _("How sure it is in and out of domain, by predicted class"),
        "out_of_domain/auroc": _("How well scores tell images out of domain from those in it"),
        "out_of_domain/gallery": _("Images out of domain with the most confident answers"),
        "out_of_domain/scores": _("Scores in and out of domain"),
        "error_bias/bias_map": _("What images of each source are taken for"),
        "error_bias/confidence": _("Confidence of correct and incorrect predictions"),
        "error_bias/weakest_slices": _("The weakest slices, with intervals"),
        "prior_shift/mixes": _("Accuracy and macro-F1 under other mixes of classes"),
        "prior_shift/shares": _("Accuracy and macro-F1 as the share of one class grows, class by class"),
        "clusters/distances": _("Mean distances between classes"),
        "clusters/silhouettes": _("Silhouettes by class"),
        "clusters/source_distances": _("Mean distances between sources"),
        "embedding/tsne": _("The embedding in a plane (t-SNE), by class and by source"),
        "embedding/pca": _("The embedding in a plane (PCA), by class and by source"),
        "embedding/umap": _("The embedding in a plane (UMAP), by class and by source"),
        "gradcam/panels": _("Where it looks: Grad-CAM on images of each class"),
        "gradcam/curves": _("Deletion and insertion of what the map marks"),
        "gradcam/sanity": _("Maps of the trained network and of one with random weights"),
        "efficiency/latency": _("Latency and throughput by batch"),
        "architecture/diagram": _("Stages of the network, with their parameters and multiply-adds"),
        "architecture/filters": _("Filters of the first layer: the patterns of colours that it responds to"),
        "architecture/feature_maps": _(
            "Feature maps of the first layers on an image of each class; above each column the number of its channel"
        ),
        "run/curves": _("Loss and metrics by epoch"),
        "data_audit/aurocs": _("How well the class is told without the image"),
        "data_audit/single_properties": _("How well single properties tell the class, as stored"),
        "data_audit/properties": _("How properties are spread over the classes"),
        "data_audit/confounding": _("Images by source and class"),
        "against/differences": _("Paired differences from the earlier result, with intervals"),
    }


def _list_comparison_captions() -> dict[str, str]:
    return {
        "significance/ranking": _("Ranking by accuracy, with intervals and ties"),
        "significance/differences": _("Differences of every two models, and which are significant"),
        "overview/by_class": _("Recall, precision and F1 by class, model by model"),
        "overview/robustness": _("Accuracy under each corruption, model by model"),
        "overview/robustness_bias": _("Robustness against bias, model by model"),
        "overview/calibration": _("Calibration error against accuracy"),
        "overview/confidence": _("Mean confidence of correct and incorrect predictions, model by model"),
        "overview/ood_confidence": _("Mean confidence in and out of domain, model by model"),
        "overview/ood_shares": _("What each model calls images out of domain"),
        "overview/bias": _("Which class each model leans to, set by set"),
        "overview/architectures": _("What each network is built of, and its size"),
        "overview/speed_size": _("Speed against size, multiply-adds and accuracy"),
        "overview/costs": _("Time, weights and memory, model by model"),
        "overview/history": _("Training: loss and macro-F1 by epoch, model by model"),
        "integrated_score/profile": _("The score and the qualities that it is made of"),
        "integrated_score/ranks": _("How often each model takes each rank, under other images and other weights"),
        "integrated_score/pareto": _(
            "Accuracy against speed and size; the line joins models that no other beats in both"
        ),
        "ensemble/gain": _("What each strategy gains over the single model chosen on val"),
        "ensemble/weights": _("How much each model weighs, by strategy"),
        "ensemble/contribution": _("What each model contributes: the accuracy lost without it"),
        "ensemble_diversity/kappa": _("Agreement beyond chance (kappa) of every two models"),
        "ensemble_diversity/double_fault": _("Share of images that two models both miss"),
        "ensemble_diversity/error_correlation": _("Correlation of the errors of every two models"),
        "ensemble_diversity/kappa_error": _(
            "Agreement against error: pairs that differ and are good lie low on the left"
        ),
        "gradcam_wall/wall": _("The same images, model by model: where each looks and what it says"),
        "cam_overlap/overlap": _("Overlap of attention by class, against the overlap of different images"),
        "cam_overlap/pairs": _("Overlap of attention by pair of models, against the overlap of different images"),
        "cam_overlap/maps": _("Raw maps of the models on the same images"),
        "leave_one_source_out/recall": _("Share recognised of each source that was left out"),
        "leave_one_source_out/predicted_as": _("What images of each source that was left out are taken for"),
        "shots/curve": _("Accuracy and macro-F1 against images a class"),
        "transformers/differences": _("What SAM, the start and the family change, pair by pair"),
        "transformers/accuracy": _("Accuracy by recipe, family by family"),
        "transformers/cost": _("Accuracy against the time of training, numbered as in the chart by family"),
        "transformers/study": _(
            "What the study typed in, and the accuracy on avatars measured here of the same networks"
        ),
        "transformers/history": _("Well-known networks on ImageNet-1k: published figures, not measured here"),
    }
