"""Words: what the report says of its blocks, cautions and methods, in the language that is spoken."""

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
    """Give blocks in the order of the known, those that are not (a user's own) behind."""
    return sorted(blocks, key=lambda name: (known.index(name) if name in known else len(known), name))


def find_title(block: str) -> str:
    """Say what a block asks, in a few words; the name of a block that is not known here."""
    return _list_titles().get(block, block)


def find_reading(block: str) -> str:
    """Say in a paragraph how the figures of a block are to be read; of an unknown block, what all have in common."""
    return _list_readings().get(block) or _(
        "A block that this report does not know: its figures stand with their intervals and directions as it gave them."
    )


def list_cautions() -> list[tuple[str, str]]:
    """Give what goes with every verdict: a title and a paragraph each."""
    return [
        (
            _("What the classes mean."),
            _(
                "A class says how the source of an image states that it came about, and no more. A verdict proves "
                "nothing about the origin of an image: a retouched photo, a photo of a drawing or the work of a new "
                "generator fits none of the names, and an image called a photo need not show anyone who exists."
            ),
        ),
        (
            _("Where it holds."),
            _(
                "A figure measured on one set of sources does not carry over to others. A network learns the habits of "
                "a source (its cropping, its compression, its taste) along with the class. What counts for another "
                "place is a blind set from that place."
            ),
        ),
    ]


def list_methods() -> list[tuple[str, str]]:
    """Give how intervals, tests, scores and guards are made: a title and a paragraph each."""
    return [
        (
            _("Intervals"),
            _(
                "Shares of images bear Wilson intervals where every group holds one image; all else a percentile "
                "bootstrap that draws whole groups, since images of one group (a person, a template, a duplicate) "
                "are not independent. Each figure says which it is, at what level, and how many units it rests on."
            ),
        ),
        (
            _("Sources as units"),
            _(
                "An interval over sources says what a new source would do, and is wider than one over images. Where "
                "both are given, the wider one answers the question whether a network will work elsewhere."
            ),
        ),
        (
            _("Comparisons"),
            _(
                "Two models are compared on the same images: by McNemar's exact test, or a permutation test over "
                "groups where groups hold several images, corrected by Holm for the number of pairs. Models that no "
                "test tells apart are ties, and share a letter. Several seeds of a recipe are drawn together with the "
                "groups."
            ),
        ),
        (
            _("Choice"),
            _(
                "Checkpoints, temperatures, thresholds and the weights of ensembles are chosen on val, never on the "
                "images that are reported. The best of several models on a set looks better there than it is: its "
                "figure was chosen as well as measured."
            ),
        ),
        (
            _("Guards"),
            _(
                "A run is refused where images, near-duplicates or groups of the judged set were trained on, where "
                "classes or preprocessing differ from the checkpoint's, and where answers fit another order of the "
                "class names significantly better. A guard that was passed on purpose is named under the warnings."
            ),
        ),
        (
            _("This report"),
            _(
                "Every number here is read from a saved Result, and none is computed anew. What is missing, damaged or "
                "of another checkpoint is named and left out. Values without a figure say why."
            ),
        ),
    ]


def _list_titles() -> dict[str, str]:
    return {
        "overview": _("Overview: the models side by side"),
        "significance": _("Significance: which models differ significantly?"),
        "integrated_score": _("Integrated score: several qualities in one number"),
        "ensemble": _("Ensembles: what combining gains"),
        "ensemble_diversity": _("Diversity: do the models err on the same images?"),
        "gradcam_wall": _("Wall of attention: the same images, model by model"),
        "cam_overlap": _("Overlap of attention: do the models look at the same places?"),
        "leave_one_source_out": _("Leave one source out: what a new source costs"),
        "shots": _("Learning curve: accuracy against images a class"),
        "transformers": _("Transformers, SAM and pretraining: what each is worth"),
        "blind_test": _("Accuracy: how often is it right?"),
        "robustness": _("Robustness: what distortion and delivery cost"),
        "calibration": _("Calibration: is it right as often as it says?"),
        "out_of_domain": _("Out of domain: images that it should not judge"),
        "error_bias": _("Errors: on which slices does it fail?"),
        "prior_shift": _("Prior shift: when classes are not equally frequent"),
        "clusters": _("Separation: how far are the classes apart?"),
        "embedding": _("Embedding: what lies near what?"),
        "gradcam": _("Attention: where does it look, and does that matter?"),
        "efficiency": _("Efficiency: how large, and how fast?"),
        "architecture": _("Architecture: what it is built of"),
        "data_audit": _("Data audit: can these images answer the question?"),
        "against": _("Change: what differs from an earlier result"),
    }


def _list_readings() -> dict[str, str]:
    return {
        "overview": _(
            "Each chart sets the models side by side by figures that their own blocks gave, each with its own "
            "interval. Intervals that overlap do not prove a tie, nor does a gap between points prove a difference: "
            "the tests of significance do."
        ),
        "significance": _(
            "Look at the ranking first, then at the matrix: it gives the difference of every two models with its "
            "interval and p. No difference found is not the same as no difference."
        ),
        "integrated_score": _(
            "Only models with every quality are ranked. Read the range of ranks, not the score alone: it shows what "
            "other weights or other images would make of the order. A network that knows nothing may be well "
            "calibrated, small and fast."
        ),
        "ensemble": _(
            "Weights are found on the calibration half of val alone. Where the paired interval of a gain holds 0, "
            "combining has shown no use here. The soup averages the weights of networks of one architecture and "
            "costs no more than one of them."
        ),
        "ensemble_diversity": _(
            "An ensemble can gain only where its members err on different images. High kappa, Q or error correlation "
            "means that they err together. All depend on how accurate the models are: compare pairs of like "
            "accuracy."
        ),
        "gradcam_wall": _(
            "A row is a model, a column an image; warm colours show what spoke for the predicted class. The overlays "
            "are for looking at: how much two models agree is measured on the maps themselves, not on these."
        ),
        "cam_overlap": _(
            "Compare each overlap with its null: networks look at the middle of every image, so that some overlap is "
            "there by habit. Only what lies beyond the null band says that two models look at the same thing in the "
            "same image."
        ),
        "leave_one_source_out": _(
            "Each source was left out of training once and then evaluated. The mean says what a new source may "
            "expect, the worst what it must reckon with; compare both with the accuracy on known sources."
        ),
        "shots": _(
            "Each point is the mean over seeded draws of so many images a class, judged on one common set. Where the "
            "intervals of two neighbours overlap, the added images have shown no use yet."
        ),
        "transformers": _(
            "Each pair differs in one thing alone: SAM, the weights that training began with, or the family of the "
            "network; at equal cost SAM stands beside more epochs without it. Grey marks differences that these "
            "images would likely not show, so that a hollow point inside it says nothing either way. The budget "
            "stands under the warnings: a small one favours networks that learn fast. The table of published figures "
            "was not measured here, and no code that the study published computes those that stand beside ours: its "
            "block 22 does not say of which images it is."
        ),
        "blind_test": _(
            "Guessing gives the tick in the drawing. Compare `accuracy_by_source`: its interval says what another "
            "choice of sources could give. In the confusion matrix a row is a true class."
        ),
        "robustness": _(
            "Images are corrupted at the size that the network sees, alike for every model. A network that is near "
            "chance without corruption has nothing to lose, and looks robust. In the test of one class only that "
            "class is corrupted: a gain there is bias towards it."
        ),
        "calibration": _(
            "Compare the ECE with its floor. `scaled/` is after the temperature. In the diagram, points below the "
            "diagonal are overconfident."
        ),
        "out_of_domain": _(
            "The network must call an image of no class of its own one of its classes: `share` says which. AUROC, "
            "AUPR and FPR@95 say how well a score flags such images. Sets with a true label are scored by accuracy "
            "as well."
        ),
        "error_bias": _(
            "The weakest slices stand beside what the weakest of as many slices would show by chance. A network that "
            "guesses has a high `unbias`, so that it is no merit of itself."
        ),
        "prior_shift": _(
            "The same predictions, weighted as if the classes came in other shares. What changes between the mixes "
            "is the mix, not the network."
        ),
        "clusters": _(
            "Measured on the embedding before the last layer. Where sources gather as tightly as classes, the "
            "network may know the source and not the class."
        ),
        "embedding": _(
            "Near points are images that the network sees alike; distances between far clusters, and their sizes, "
            "mean nothing. Compare the colouring by class with that by source: clusters of one source hint at a "
            "shortcut."
        ),
        "gradcam": _(
            "Deletion and insertion say whether the marked places matter to the prediction; compare them with random "
            "maps."
        ),
        "efficiency": _(
            "Timed on one machine, with intervals over rounds; times of other machines are not comparable. Size "
            "counts parameters and stored bytes."
        ),
        "architecture": _(
            "Read off the network itself. Neither parameters nor multiply-adds say how fast it runs on a given machine."
        ),
        "data_audit": _(
            "What can be told of the class without looking at the image. Where the file alone tells the class, a "
            "network need not look at the image either."
        ),
        "against": _(
            "Each difference is the new value minus the earlier one. Paired differences are of the images that both "
            "results have, on the same resamples; the new result is significantly better or worse where p of the "
            "difference in accuracy is below alpha and its interval leaves out 0. Unpaired differences take the two "
            "results as independent, so that on the same images their intervals are too wide."
        ),
    }
