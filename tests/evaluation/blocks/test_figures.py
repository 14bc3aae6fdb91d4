"""Figures of runs whose names are long and alike: nothing is cut off, and no two rows bear one name."""

from itertools import product

import numpy as np
import pytest

from avatar_bench.evaluation.block import build_block
from avatar_bench.i18n import LANGUAGES, use_language

RECIPES = ("mobilenetv3_small few_shot 10 shots", "mobilenetv3_small few_shot 30 shots", "mobilenetv3_small full")
SHOTS = (10, 30, None)
SOURCES = [f"a_source_with_a_long_name_number_{i}_of_the_set" for i in range(9)]
BLOCKS = ("blind_test", "calibration", "clusters", "decision", "error_bias", "ensemble", "significance", "shots")


@pytest.mark.parametrize("name", BLOCKS)
def test_figures_are_whole_in_both_languages(name, make_predictions, fake_run, dataset_of, inside, draw_saved):
    def build(seed):
        rng, targets = np.random.default_rng(seed), np.arange(180) % 3
        signal = 1 + 0.2 * seed
        logits = rng.normal(size=(180, 3)) + signal * np.eye(3)[targets]
        embeddings = rng.normal(size=(180, 8)) + signal * np.eye(8)[targets]
        fields = {"embeddings": embeddings.astype(np.float32), "sources": SOURCES * 20, "temperature": 1.3}
        return make_predictions(targets, logits, **fields)

    options = {"resamples": 100} | ({"method": "pca", "permutations": 2} if name == "clusters" else {})
    block = build_block(name, options)
    if hasattr(block, "compare"):
        fields = {"images": None, "record": {"name": "mobilenetv3_small", "mode": "few_shot"}}
        runs = []
        for (index, recipe), seed in product(enumerate(RECIPES), (1, 2)):
            names = {"label": f"{recipe} · seed {seed}", "recipe": recipe, "seed": seed}
            names["config"] = {"mode": {"shots": SHOTS[index]}}
            runs.append(fake_run(build(2 * index + seed), **names | fields))
        result = block.compare(runs, [dataset_of(build(0))] * len(runs))
    else:
        sides = [f"{60 + 7 * i}" for i in range(180)]
        stored = {"width": sides, "height": sides, "format": ["PNG", "JPEG", "JPEG"] * 60}
        dataset = dataset_of(build(3), jpeg_quality=["", "40", "92"] * 60, **stored)
        result = block.evaluate(fake_run(build(3), calibration=build(9)), dataset)
    drawn = []
    for language in LANGUAGES:
        with use_language(language):
            drawn += draw_saved(result).values()
    assert drawn
    for figure in drawn:
        rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        assert len(set(rows)) == len(rows)
        assert inside(figure)
