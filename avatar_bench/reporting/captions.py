"""Captions and alternative texts of the figures in the report."""

from __future__ import annotations

import re
from collections.abc import Iterable

from avatar_bench.i18n import _
from avatar_bench.reporting.headings import find_heading
from avatar_bench.reporting.number_format import format_metric
from avatar_bench.results.result import Result


def find_caption(block: str, figure: str) -> str:
    """Return the caption of a figure of a block, the figure's name where it has none."""
    if block == "gradcam_wall" and (named := re.fullmatch(r"class_\d+_(.+)", figure)):
        return _("Images of class {name} by model", name=named[1])
    return _list_captions().get(f"{block}/{figure}", figure.replace("_", " "))


def list_figures(block: str) -> list[str]:
    """Return the names of the figures that a block can draw, in reading order."""
    return [name.removeprefix(f"{block}/") for name in _list_captions() if name.startswith(f"{block}/")]


def order_figures(block: str, figures: Iterable[str]) -> list[str]:
    """Sort the figures of a block in reading order, the main one first."""
    known = list_figures(block)
    return sorted(figures, key=lambda figure: (known.index(figure) if figure in known else len(known), figure))


def describe_figure(result: Result, figure: str, owner: str) -> str:
    """Return the alternative text of a figure: caption, model, set, and the main metric of its result."""
    what = find_caption(result.block, figure)
    if owner:
        text = _("{what}, {model}, on {set}.", what=what, model=owner, set=result.set)
    else:
        text = _("{what}, all models, on {set}.", what=what, set=result.set)
    named = next(iter(result.metrics.items()), None)
    return text if named is None else f"{text} {find_heading(named[0])}: {format_metric(named[1])}."


def _list_captions() -> dict[str, str]:
    return _list_run_captions() | _list_comparison_captions()


def _list_run_captions() -> dict[str, str]:
    return {
        "blind_test/confusion": _("Confusion matrix: rows are true classes, columns predictions"),
        "blind_test/per_source": _("Accuracy by source, with intervals"),
        "blind_test/gallery_of_errors": _("The most confident errors"),
        "robustness/severity_3": _("Accuracy under each corruption at severity 3"),
        "robustness/severities": _("Accuracy and recall of each class by corruption and severity"),
        "robustness/delivery": _(
            "Accuracy after re-encoding as done by web platforms: recompression, resizing, screenshots"
        ),
        "robustness/one_class": _("Changes when only one class is corrupted"),
        "robustness/images": _("One image under each corruption and severity, with its prediction"),
        "robustness/images_delivered": _("One image after each delivery, with its prediction"),
        "calibration/reliability": _("Reliability diagram: accuracy against confidence"),
        "calibration/confidence": _("Distribution of confidence"),
        "calibration/coverage": _("Coverage and size of conformal sets"),
        "calibration/risk_coverage": _(
            "Risk-coverage curve: error rate when the least confident predictions are rejected"
        ),
        "calibration/shift": _("Coverage of conformal sets and calibration error on corrupted and other images"),
        "out_of_domain/shares": _("Predictions on out-of-domain images"),
        "out_of_domain/confidence": _("Confidence in and out of domain by predicted class"),
        "out_of_domain/auroc": _("AUROC of scores that detect out-of-domain images"),
        "out_of_domain/gallery": _("Out-of-domain images with the most confident predictions"),
        "out_of_domain/scores": _("Distribution of scores in and out of domain"),
        "error_bias/bias_map": _("Predictions by source"),
        "error_bias/confidence": _("Confidence of correct and incorrect predictions"),
        "error_bias/weakest_slices": _("The weakest slices, with intervals"),
        "prior_shift/mixes": _("Accuracy and macro-F1 under other class proportions"),
        "prior_shift/shares": _("Accuracy and macro-F1 against the proportion of each class"),
        "clusters/distances": _("Mean distances between classes"),
        "clusters/silhouettes": _("Silhouettes by class"),
        "clusters/source_distances": _("Mean distances between sources"),
        "embedding/tsne": _("Two-dimensional map of the embedding (t-SNE), by class and by source"),
        "embedding/pca": _("Two-dimensional map of the embedding (PCA), by class and by source"),
        "embedding/umap": _("Two-dimensional map of the embedding (UMAP), by class and by source"),
        "gradcam/panels": _("Grad-CAM maps on images of each class"),
        "gradcam/curves": _("Deletion and insertion curves of the maps"),
        "gradcam/sanity": _("Maps of the trained network and of one with random weights"),
        "efficiency/latency": _("Latency and throughput by batch size"),
        "architecture/diagram": _("Stages of the network, with their parameters and multiply-adds"),
        "architecture/filters": _("Filters of the first layer: the colour patterns it responds to"),
        "architecture/feature_maps": _(
            "Feature maps of the first layers on an image of each class; channel numbers above the columns"
        ),
        "run/curves": _("Loss and metrics by epoch"),
        "data_audit/aurocs": _("How well the class is predicted without the image"),
        "data_audit/single_properties": _("How well single properties predict the class, as stored"),
        "data_audit/properties": _("Distribution of properties by class"),
        "data_audit/confounding": _("Images by source and class"),
        "against/differences": _("Paired differences from the earlier result, with intervals"),
    }


def _list_comparison_captions() -> dict[str, str]:
    return {
        "significance/ranking": _("Ranking by accuracy, with intervals and ties"),
        "significance/differences": _("Pairwise differences between models, and which are significant"),
        "overview/by_class": _("Recall, precision and F1 by class and model"),
        "overview/robustness": _("Accuracy under each corruption by model"),
        "overview/robustness_bias": _("Robustness and bias by model"),
        "overview/calibration": _("Calibration error against accuracy"),
        "overview/confidence": _("Mean confidence of correct and incorrect predictions by model"),
        "overview/ood_confidence": _("Mean confidence in and out of domain by model"),
        "overview/ood_shares": _("Predictions of each model on out-of-domain images"),
        "overview/bias": _("Classes that each model predicts too often, by set"),
        "overview/architectures": _("Composition and size of each network"),
        "overview/speed_size": _("Speed against size, multiply-adds and accuracy"),
        "overview/costs": _("Time, weights and memory by model"),
        "overview/history": _("Training: loss and macro-F1 by epoch and model"),
        "integrated_score/profile": _("Integrated score and the qualities it combines"),
        "integrated_score/ranks": _("Frequency of each rank by model, on resampled images and under other weights"),
        "integrated_score/pareto": _("Accuracy against speed and size; the line is the Pareto front"),
        "ensemble/gain": _("Gain of each strategy over the single model chosen on val"),
        "ensemble/weights": _("Weight of each model by strategy"),
        "ensemble/contribution": _("Contribution of each model: accuracy lost without it"),
        "ensemble_diversity/kappa": _("Agreement beyond chance (kappa) of each pair of models"),
        "ensemble_diversity/double_fault": _("Proportion of images misclassified by both models of a pair"),
        "ensemble_diversity/error_correlation": _("Correlation of errors of each pair of models"),
        "ensemble_diversity/kappa_error": _(
            "Agreement against error: diverse and accurate pairs are at the lower left"
        ),
        "gradcam_wall/wall": _("The same images for each model: Grad-CAM map and prediction"),
        "cam_overlap/overlap": _("Overlap of Grad-CAM maps by class, compared with that of different images"),
        "cam_overlap/pairs": _("Overlap of Grad-CAM maps by pair of models, compared with that of different images"),
        "cam_overlap/maps": _("Raw Grad-CAM maps of the models on the same images"),
        "leave_one_source_out/recall": _("Recall of each held-out source"),
        "leave_one_source_out/predicted_as": _("Predictions on each held-out source"),
        "shots/curve": _("Accuracy and macro-F1 against images per class"),
        "transformers/differences": _("Effect of SAM, initial weights and family by pair"),
        "transformers/accuracy": _("Accuracy by recipe and family"),
        "transformers/cost": _("Accuracy against training time, numbered as in the chart by family"),
        "transformers/study": _("Numbers reported in the study, and accuracy of the same networks measured here"),
        "transformers/history": _("Well-known networks on ImageNet-1k: published numbers, not measured here"),
    }
