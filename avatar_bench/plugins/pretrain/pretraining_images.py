"""Images of a pretraining: read, checked by the guards, and without those of test and other evaluation sets."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from avatar_bench.console.terminal import print_note
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import mark_shared_images, refuse_changed_files, split_without_leakage
from avatar_bench.data.splits import SplitPlan, fingerprint_split
from avatar_bench.errors import GuardError
from avatar_bench.runs.record import RunRecord
from avatar_bench.sources.dataset_kinds import list_further_sets, open_further_set, open_images

if TYPE_CHECKING:
    from avatar_bench.plugins.pretrain.command.pretrain import PretrainConfig


def prepare_pretraining(settings: PretrainConfig, record: RunRecord) -> tuple[Dataset, Dataset]:
    """Return all images with their splits, and those to train on; print and record which are held out."""
    data = settings.data
    whole = open_images(data)
    refuse_changed_files(whole)
    plan, notes = SplitPlan.from_options(data), list[str]()
    # labels are not used, so conflicting ones do not matter
    sides = split_without_leakage(whole, plan, [*settings.allow, "label_conflict"], notes)
    for note in notes:
        print_note(f"warning: {note}")
    allowed = "test_images" in settings.allow
    wanted = ["train"] + ["val", "calibration"] * settings.use_val + ["test"] * allowed
    learning = sides.take(sides.frame["split"].isin(wanted))
    counts = sides.frame["split"].value_counts()
    kept_out = {str(side): int(n) for side, n in counts.items() if side not in wanted}
    if not allowed:
        further = {name: open_further_set(path, name) for name, path in list_further_sets(data, whole.root).items()}
        for name, other in further.items():
            shared = mark_shared_images(learning, other)
            kept_out[name] = int(shared.sum())
            learning = learning.take(~shared)
    if len(learning) < 2:
        raise GuardError(
            f"Only {len(learning)} of {len(whole)} images of {whole.name} are left to train on.",
            "The others belong to its test, val, blind or ood sets, which are held out.",
        )
    record.split = asdict(plan) | {
        "fingerprint": fingerprint_split(sides),
        "counts": {str(side): int(n) for side, n in counts.items()},
    }
    record.images = {"learned_from": len(learning), "kept_out": kept_out}
    unlabelled, without = int((learning.frame["label"] == "").sum()), ""
    if 0 < unlabelled < len(learning):
        record.images["unlabelled"] = unlabelled
        without = f", {unlabelled} of them without a label"
    held_out = ", ".join(f"{n} of {name}" for name, n in kept_out.items() if n) or "none"
    chosen = f"training on {len(learning)} of {len(whole)} images of {whole.name}{without}"
    print_note(f"{chosen}; held out: {held_out}")
    if allowed:
        print_note("warning: training includes images of the test, blind and ood sets (allow=[test_images])")
    return sides, learning
