"""Tests of marks: moved shares counted by hand, and detectors whose rule is known."""

import numpy as np
import pytest
from PIL import Image

from avatar_bench.data.dataset import read_dataset
from avatar_bench.data.mask import Erasure
from avatar_bench.data.stamps import Marking
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.marks import Marks
from avatar_bench.results.reasons import Reason
from avatar_bench.runs.run import Run
from tests.builders.pixels import make_smooth

BLUE = (0, 51, 153)  # of the circle behind the letters
LETTERS = {"kinds": ["letters"], "opacities": [1.0], "sizes": [0.3], "resamples": 200}
ORDERS = [("drawing", "generated", "real"), ("generated", "real", "drawing"), ("real", "drawing", "generated")]


class LabelReader:
    """Detector that answers generated where the lower right quarter has the colour of the stamp."""

    sha256 = "1"

    def __init__(self, classes):
        self.classes = classes

    def predict(self, images):
        names = []
        for image in images:
            quarter = image[image.shape[0] // 2 :, image.shape[1] // 2 :]
            is_labelled = (quarter == BLUE).all(axis=2).any()
            names.append("generated" if is_labelled else "real" if image.mean() > 100 else "drawing")
        return np.array([[0.8 if name == known else 0.1 for known in self.classes] for name in names])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight bright and eight dark images, and four bright ones of the class generated, of which one bears a stamp."""
    root = tmp_path_factory.mktemp("photos")
    for label, low, count in (("drawing", 0, 8), ("generated", 150, 4), ("real", 150, 8)):
        for number in range(count):
            image = make_smooth(number + low, 60, 50, low, low + 80)
            if (label, number) == ("generated", 0):
                image[-5:, -5:] = BLUE
            file = root / label / f"source{number % 4}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return root


@pytest.mark.parametrize("classes", ORDERS)
def test_a_detector_that_reads_the_label_moves_wholly_and_by_no_patch(classes, photos, tmp_path, drawn_whole):
    run = Run.from_predictor(LabelReader(classes), tmp_path / "reader", label="reader")
    result = Marks(**LETTERS).evaluate(run, read_dataset(photos))
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert value["moved"] == value["mark_effect"] == value["mark_effect/real"] == value["mark_effect/generated"] == 1
    assert value["moved_by_patch"] == 0
    assert result.metrics["moved"].n == 19  # without the one that is predicted generated as it is
    table = result.tables["moves"].query("stamp == 'letters'").set_index("class")["n"]
    assert table.to_dict() == {"(all)": 19, "drawing": 8, "generated": 3, "real": 8}
    # grey corners hide the label of one image, which is then predicted real
    assert value["accuracy"] == pytest.approx(17 / 20)
    assert value["accuracy_masked"] == pytest.approx(16 / 20)
    assert value["masking_cost"] == pytest.approx(1 / 20)
    assert result.warnings[-1] == Reason("reads_marks", moved=1.0, patch=0.0, effect=1.0, name="generated", n=19)
    if classes == ORDERS[0]:
        result = Marks(**LETTERS | {"kinds": ["letters", "frame"]}).evaluate(run, read_dataset(photos))
        assert len(result.arrays["images"]["rows"]) == 6
        drawn_whole(result.save(tmp_path / "marks"), {"moves", "by_class", "images"})


def test_moved_shares_are_those_counted_by_hand_and_variations_have_keys(make_predictions, fake_run, dataset_of):
    targets = [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    answers = {  # class predicted of each image
        "clean": [0, 0, 0, 1, 1, 2, 2, 2, 2, 0],
        ("letters", False): [1, 1, 0, 1, 1, 1, 2, 2, 1, 0],
        ("letters", True): [1, 0, 0, 0, 1, 2, 2, 2, 2, 0],
        ("frame", False): [0, 0, 1, 1, 1, 2, 2, 2, 1, 0],
        ("frame", True): [0, 0, 0, 1, 1, 2, 1, 2, 2, 0],
        "corners": [0, 0, 2, 2, 1, 2, 2, 2, 2, 0],
    }

    def predict(key):
        return make_predictions(targets, 3 * np.eye(3)[answers[key]])

    def vary(variation):
        return predict("corners" if isinstance(variation, Erasure) else (variation.kind, variation.is_patch))

    clean = predict("clean")
    run = fake_run(clean, variations=vary, preprocessing=Preprocessing(8, "squash", (0.5,) * 3, (0.5,) * 3))
    options = {"kinds": ["letters", "frame"], "opacities": [1.0], "resamples": 200}
    result = Marks(**options).evaluate(run, dataset_of(clean))
    table = result.tables["moves"].set_index(["stamp", "class"])[["n", "moved", "moved_by_patch", "mark_effect"]]
    expected = {
        ("(any)", "(all)"): (8, 5 / 8, 2 / 8, 3 / 8),
        ("letters", "(all)"): (8, 4 / 8, 1 / 8, 3 / 8),
        ("frame", "(all)"): (8, 2 / 8, 1 / 8, 1 / 8),
        ("letters", "drawing"): (3, 2 / 3, 1 / 3, 1 / 3),
        ("letters", "generated"): (1, 1, 0, 1),
        ("letters", "real"): (4, 1 / 4, 0, 1 / 4),
        ("frame", "drawing"): (3, 1 / 3, 0, 1 / 3),
        ("frame", "real"): (4, 1 / 4, 1 / 4, 0),
    }
    for key, numbers in expected.items():
        assert tuple(table.loc[key]) == pytest.approx(numbers), key
    assert result.metrics["mark_effect"].value == pytest.approx(3 / 8)
    assert result.metrics["masking_cost"].value == pytest.approx(7 / 10 - 6 / 10)
    assert {metric.higher_is_better for name, metric in result.metrics.items() if "accuracy" not in name} == {False}
    markings = [("pill", 1.0, 0.2, "any"), ("logo", 1.0, 0.2, "any"), ("pill", 0.5, 0.2, "any")]
    markings += [("pill", 1.0, 0.3, "any"), ("pill", 1.0, 0.2, "top_left"), ("pill", 1.0, 0.2, "any", True)]
    variations = [*(Marking(*parameters) for parameters in markings), Erasure(0.1), Erasure(0.2)]
    assert len({variation.key for variation in variations}) == len(variations)


def test_without_the_class_nothing_can_move(make_predictions, fake_run, dataset_of):
    clean = make_predictions([0, 1, 2, 1], 3 * np.eye(3)[[1, 1, 1, 1]])
    run = fake_run(clean, preprocessing=Preprocessing(8, "squash", (0.5,) * 3, (0.5,) * 3))
    result = Marks(resamples=200).evaluate(run, dataset_of(clean))
    assert result.metrics["mark_effect"].value is None
    assert result.metrics["moved"].reason == Reason("no_images")
    assert result.warnings == [Reason("always_target", name="generated")]
    with pytest.raises(BlockError, match=r"has no class 'fake'(.|\n)*block\.marks\.target=CLASS"):
        Marks(target="fake").evaluate(run, dataset_of(clean))
