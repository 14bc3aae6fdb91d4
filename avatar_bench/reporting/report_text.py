"""Texts of the report on cautions and methods, in the current language."""

from __future__ import annotations

from avatar_bench.i18n import _


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
