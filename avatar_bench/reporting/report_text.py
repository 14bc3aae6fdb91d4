"""Texts of the report on blocks, cautions and methods, in the current language."""

from __future__ import annotations

from avatar_bench.i18n import _

COMPARISONS = (
    "overview",
    "significance",
    "integrated_score",
    "ensemble",
    "ensemble_diversity",
    "gradcam_wall",
    "cam_overlap",
    "leave_one_source_out",
    "shots",
    "transformers",
)
BLOCKS = (
    "blind_test",
    "robustness",
    "calibration",
    "out_of_domain",
    "error_bias",
    "prior_shift",
    "clusters",
    "embedding",
    "gradcam",
    "efficiency",
    "architecture",
    "data_audit",
    "against",
)


def order_blocks(blocks: set[str], known: tuple[str, ...]) -> list[str]:
    """Sort blocks in the order of `known`, a user's own blocks last."""
    return sorted(blocks, key=lambda name: (known.index(name) if name in known else len(known), name))


def find_title(block: str) -> str:
    """Return the title of a block, its name where it is unknown."""
    return _list_titles().get(block, block)


def find_reading(block: str) -> str:
    """Return a paragraph on how to read the results of a block, a general one for an unknown block."""
    return _list_readings().get(block) or _(
        "The report has no text on this block: its metrics are shown with the intervals and directions that the block "
        "saved."
    )


def list_cautions() -> list[tuple[str, str]]:
    """Return the cautions for every prediction: a title and a paragraph each."""
    return [
        (
            _("Meaning of the classes."),
            _(
                "A class only states how an image was made according to its source. A prediction proves nothing "
                "about the origin of an image: a retouched photo, a photo of a drawing or the output of a new "
                "generator fits none of the classes, and an image predicted as a photo need not show a person who "
                "exists."
            ),
        ),
        (
            _("Validity."),
            _(
                "A metric measured on one set of sources does not transfer to others. Along with the class, a "
                "network learns the traits of a source: cropping, compression, taste. To know the accuracy "
                "elsewhere, measure it on an external test set from there."
            ),
        ),
    ]


def list_methods() -> list[tuple[str, str]]:
    """Return the methods of intervals, tests, scores and guards: a title and a paragraph each."""
    return [
        (
            _("Intervals"),
            _(
                "Proportions of images have Wilson intervals where every group has one image. All other metrics "
                "have a percentile bootstrap that resamples whole groups, since images of one group (a person, a "
                "template, a duplicate) are not independent. Each metric states its interval, level and number of "
                "units."
            ),
        ),
        (
            _("Sources as units"),
            _(
                "An interval over sources covers new sources and is wider than one over images. Where both are "
                "shown, the wider one tells whether a network will work elsewhere."
            ),
        ),
        (
            _("Comparisons"),
            _(
                "Two models are compared on the same images: by McNemar's exact test or, where groups have several "
                "images, by a permutation test over groups, with Holm's correction for the number of pairs. Models "
                "that are not significantly different are tied and share a letter. Several seeds of a recipe are "
                "resampled together with the groups."
            ),
        ),
        (
            _("Selection"),
            _(
                "Checkpoints, temperatures, thresholds and ensemble weights are chosen on val, never on the "
                "reported images. The metric of the best of several models on a set is optimistic: it was used for "
                "the choice."
            ),
        ),
        (
            _("Guards"),
            _(
                "A run is refused where images, near-duplicates or groups of the evaluated set were used in "
                "training, where classes or preprocessing differ from the checkpoint, and where predictions fit "
                "another order of the class names significantly better. Overridden guards are listed under the "
                "caveats."
            ),
        ),
        (
            _("This report"),
            _(
                "Every number is read from a saved result; none is computed again. What is missing, damaged or "
                "from another checkpoint is listed and not used. A missing value has a reason."
            ),
        ),
    ]


def _list_titles() -> dict[str, str]:
    return {
        "overview": _("Overview: the models side by side"),
        "significance": _("Significance: which models differ significantly?"),
        "integrated_score": _("Integrated score: several qualities in one number"),
        "ensemble": _("Ensembles: the gain of combining models"),
        "ensemble_diversity": _("Diversity: do the models misclassify the same images?"),
        "gradcam_wall": _("Grad-CAM wall: the same images for each model"),
        "cam_overlap": _("Overlap of Grad-CAM maps: do the models use the same regions?"),
        "leave_one_source_out": _("Leave one source out: recall on a new source"),
        "shots": _("Learning curve: accuracy against images per class"),
        "transformers": _("Transformers, SAM and pretraining: the effect of each"),
        "blind_test": _("Accuracy: how often is the prediction correct?"),
        "robustness": _("Robustness: accuracy lost to corruption and re-encoding"),
        "calibration": _("Calibration: does confidence match accuracy?"),
        "out_of_domain": _("Out of domain: images of none of the classes"),
        "error_bias": _("Errors: which slices are the weakest?"),
        "prior_shift": _("Prior shift: other class proportions"),
        "clusters": _("Separation: how far apart are the classes?"),
        "embedding": _("Embedding: which images are close to each other?"),
        "gradcam": _("Grad-CAM: which regions matter to the prediction?"),
        "efficiency": _("Efficiency: how large and how fast?"),
        "architecture": _("Architecture: composition of the network"),
        "data_audit": _("Data audit: is the data set suitable?"),
        "against": _("Change: differences from an earlier result"),
    }


def _list_readings() -> dict[str, str]:
    return {
        "overview": _(
            "Each chart compares the models by metrics of one block, each with its own interval. Overlapping "
            "intervals do not prove a tie, and a gap between points does not prove a difference: see the tests of "
            "significance."
        ),
        "significance": _(
            "Read the ranking first, then the matrix with the difference, interval and p of each pair of models. A "
            "difference that is not significant may still exist."
        ),
        "integrated_score": _(
            "Only models with every quality are ranked. Read the range of ranks, not only the score: it shows how "
            "the order changes under other weights or on other images. A network that only guesses can be well "
            "calibrated, small and fast."
        ),
        "ensemble": _(
            "Ensemble weights are fitted on the calibration half of val only. Where the paired interval of a gain "
            "contains 0, no benefit of combining is shown. The weight soup averages the weights of networks of one "
            "architecture and costs no more than one of them."
        ),
        "ensemble_diversity": _(
            "An ensemble can gain only where its members misclassify different images. High kappa, Q or error "
            "correlation means that they make the same errors. All of them depend on accuracy: compare pairs of "
            "similar accuracy."
        ),
        "gradcam_wall": _(
            "Rows are models, columns are images; warm colours are regions with positive activation for the "
            "predicted class. The overlays are only for viewing: the agreement of two models is measured on the "
            "maps themselves."
        ),
        "cam_overlap": _(
            "Compare each overlap with its null: networks attend to the centre of most images, so some overlap is "
            "always there. Only an overlap beyond the null band shows that two models use the same region of the "
            "same image."
        ),
        "leave_one_source_out": _(
            "Each source was left out of training once and then evaluated. The mean is what to expect on a new "
            "source, the worst what to be prepared for; compare both with the accuracy on known sources."
        ),
        "shots": _(
            "Each point is the mean over random samples (by seed) of that many images per class, evaluated on one "
            "common set. Where the intervals of two neighbouring points overlap, no benefit of the added images is "
            "shown."
        ),
        "transformers": _(
            "Each pair differs in one factor: SAM, the initial weights, or the family of the network; at equal "
            "cost, SAM is compared with more epochs without it. Grey marks differences too small to be detected on "
            "these images: a hollow point inside is inconclusive. The training budget is under the warnings; a "
            "small one favours networks that learn fast. The table of published numbers was not measured here. No "
            "code published with the study computes the numbers shown beside ours, and its block 22 does not state "
            "which images it uses."
        ),
        "blind_test": _(
            "The tick in the interval plot marks guessing. Compare `accuracy_by_source`: its interval covers other "
            "choices of sources. Rows of the confusion matrix are true classes."
        ),
        "robustness": _(
            "Images are corrupted at the input size of the network, identically for every model. A network near "
            "chance level without corruption has nothing to lose and looks robust. In the one-class test, only "
            "that class is corrupted: a gain is bias towards it."
        ),
        "calibration": _(
            "Compare the ECE with its floor. `scaled/` is after temperature scaling. In the diagram, points below "
            "the diagonal are overconfident."
        ),
        "out_of_domain": _(
            "The network assigns one of its classes even to images of none of them: see `share`. AUROC, AUPR and "
            "FPR@95 measure how well a score flags such images. Sets with true labels have an accuracy as well."
        ),
        "error_bias": _(
            "The weakest slices are compared with the weakest of as many slices by chance. A network that guesses "
            "has a high `unbias`, so a high value alone is no merit."
        ),
        "prior_shift": _(
            "The same predictions, weighted as if the classes had other proportions. Only the proportions change, "
            "not the network."
        ),
        "clusters": _(
            "Measured on the embedding before the last layer. Where sources cluster as tightly as classes, the "
            "network may recognise the source rather than the class."
        ),
        "embedding": _(
            "Close points are images that are similar to the network; distances between far clusters and their "
            "sizes mean nothing. Compare the colours by class with those by source: clusters of one source suggest "
            "a shortcut."
        ),
        "gradcam": _(
            "Deletion and insertion measure whether the marked regions matter to the prediction; compare them with "
            "random maps."
        ),
        "efficiency": _(
            "Timed on one machine, with intervals over rounds; times from other machines are not comparable. Size "
            "is the number of parameters and stored bytes."
        ),
        "architecture": _(
            "Read from the network itself. Neither parameters nor multiply-adds predict its speed on a given machine."
        ),
        "data_audit": _(
            "How well the class is predicted without the image content. Where the file alone predicts the class, a "
            "network can ignore the content as well."
        ),
        "against": _(
            "Each difference is the new value minus the earlier one. Paired differences use the images of both "
            "results and the same resamples; the new result is significantly better or worse where p of the "
            "difference in accuracy is below alpha and its interval excludes 0. Unpaired differences treat the "
            "results as independent, so on the same images their intervals are too wide."
        ),
    }
