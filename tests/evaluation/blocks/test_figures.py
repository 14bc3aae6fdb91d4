"""Figures of runs whose names are long and alike: nothing is cut off, and no two rows bear one name."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_bench.evaluation.block import build_block
from avatar_bench.i18n import use_language

CLASSES = ("drawing", "generated", "real")
RECIPES = ("mobilenetv3_small few_shot 10 shots", "mobilenetv3_small few_shot 30 shots", "mobilenetv3_small full")
SHOTS = (10, 30, None)
SOURCES = [f"a_source_with_a_long_name_number_{i}_of_the_set" for i in range(9)]


@pytest.fixture
def answered(make_predictions):
    """Build the Predictions of 180 images by one run of many, and their embeddings."""

    def build(seed, temperature=1.3):
        rng, targets = np.random.default_rng(seed), np.arange(180) % 3
        signal = 1 + 0.2 * seed
        logits = rng.normal(size=(180, 3)) + signal * np.eye(3)[targets]
        embeddings = rng.normal(size=(180, 8)) + signal * np.eye(8)[targets]
        sources = [SOURCES[i % 9] for i in range(180)]
        fields = {"embeddings": embeddings.astype(np.float32), "sources": sources, "temperature": temperature}
        return make_predictions(targets, logits, **fields)

    return build


def whole(drawn, inside):
    """Assert that each figure lies inside its frame, and that no two of its rows bear one name."""
    for name, figure in drawn.items():
        rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        assert len(set(rows)) == len(rows), name
        assert inside(figure), name
    assert drawn


@pytest.mark.parametrize("block", ["ensemble", "significance", "shots"])
def test_figures_of_seeds_of_similar_recipes_are_whole(block, fake_run, dataset_of, answered, inside, draw_saved):
    runs = [
        fake_run(
            answered(3 * index + seed),
            images=None,
            label=f"{recipe} · seed {seed}",
            recipe=recipe,
            seed=seed,
            config={"mode": {"shots": SHOTS[index]}},
            record={"name": "mobilenetv3_small", "mode": "few_shot"},
        )
        for index, recipe in enumerate(RECIPES)
        for seed in (1, 2, 3)
    ]
    sets = [dataset_of(run.predictions(dataset_of(answered(0)))) for run in runs]
    result = build_block(block, {"resamples": 100}).compare(runs, sets)
    for language in ("en", "ru"):
        with use_language(language):
            whole(draw_saved(result), inside)


@pytest.mark.parametrize(
    ("block", "options"),
    [
        ("blind_test", {}),
        ("calibration", {}),
        ("decision", {}),
        ("error_bias", {}),
        ("clusters", {"method": "pca", "permutations": 2}),
    ],
)
def test_figures_of_one_run_are_whole(block, options, fake_run, dataset_of, answered, inside, draw_saved):
    evaluated = answered(3)
    stored = {"width": [f"{60 + 7 * i}" for i in range(180)], "format": ["PNG", "JPEG", "JPEG"] * 60}
    stored |= {"height": stored["width"], "jpeg_quality": ["", "40", "92"] * 60}
    run = fake_run(evaluated, calibration=answered(9))
    result = build_block(block, {"resamples": 100} | options).evaluate(run, dataset_of(evaluated, **stored))
    for language in ("en", "ru"):
        with use_language(language):
            whole(draw_saved(result), inside)
