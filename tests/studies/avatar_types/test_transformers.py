"""Tests of transformers: pairs that differ in one setting, protocols, and comparison with published accuracies."""

from __future__ import annotations

import copy
import importlib
from functools import cache
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm

from avatar_bench.config.entries import find_entry, use_folders
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.blocks.significance import Significance
from avatar_bench.evaluation.seeds import Recipes
from avatar_bench.i18n import use_language
from avatar_bench.metrics.calibration import calibration_errors
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric, Result
from tests.models.small import count_macs

with use_folders([Path(__file__).parents[3] / "studies" / "avatar_types"]):
    transformers = find_entry("block", "transformers").load()
PARTS = ("figures", "recipe_traits", "study_tables")
figures, traits, tables = (importlib.import_module(f"{transformers.__name__}.{name}") for name in PARTS)

SAM = {"name": "adamw", "rho": 0.05, "adaptive": False, "weight_decay": 0.01}
ADAMW = {"name": "adamw", "weight_decay": 0.01}
SIMCLR = {"weights": "/runs/weights.pt", "sha256": "ab" * 32, "method": "simclr"}
NETS = {"vit": ("test_vit.r160_in1k", 160), "resnet": ("test_resnet.r160_in1k", 64)}
HUB = {"weights": "hub"}
RECORD = {
    "mode": "full",
    "data": {"fingerprint": "d1"},
    "split": {"fingerprint": "s1", "counts": {"train": 400, "test": 240}},
    "stages": [{"unfreeze": "all", "epochs": 4, "lr": 3e-4}],
    "balance": "none",
    "process": {"host": "here"},
    "seconds": 90.0,
    "train_seconds": 30.0,
    "passes_per_step": 1,
}


@pytest.fixture(scope="module")
def nets():
    """Two networks, each of which is inspected once: that is half of the time of a comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traits, "inspect_network", cache(traits.inspect_network))
        yield {name: timm.create_model(tag, num_classes=3).eval() for name, (tag, _) in NETS.items()}


@pytest.fixture
def run(fake_run, nets):
    """Build a stand-in for a run; `record` and `config` override plain ones."""

    def build(predictions, net="resnet", optimizer=ADAMW, init=None, seed=1, record=(), image_size=64, **fields):
        tag, size = NETS[net]
        tag = fields.pop("backbone", tag)
        config = {
            "data": {"image_size": image_size, "batch_size": 16, "resize": "squash", "augment": {"flip": 0.5}},
            "model": {"backbone": tag, "options": fields.pop("options", {})},
            "optimizer": optimizer,
            "trainer": {"accelerator": "auto", "devices": 1, "limit_batches": fields.pop("limit_batches", None)},
        }
        config["data"] |= fields.pop("data", {})
        config |= {group: fields.pop(group, {}) for group in ("callbacks", "schedule")}
        whole = copy.deepcopy(RECORD) | {"init": init or {"weights": "none"}} | dict(record)
        plain = {
            "predictor": SimpleNamespace(module=SimpleNamespace(net=nets[net]), unload=lambda: None),
            "card": SimpleNamespace(backbone=tag, weights="none"),
            "preprocessing": SimpleNamespace(size=size),
        }
        return fake_run(predictions, record=whole, config=config, seed=seed, **{**plain, **fields})

    return build


@pytest.fixture
def compare(run, dataset_of):
    """Compare {recipe: (Predictions, fields)}, or {(recipe, seed): ...}."""

    def build(found, block=None):
        runs = []
        for key, (predictions, fields) in found.items():
            recipe, seed = key if isinstance(key, tuple) else (key, 1)
            runs.append(run(predictions, label=f"{recipe} {seed}", recipe=recipe, **{"seed": seed, **fields}))
        sets = [dataset_of(predictions) for predictions, _ in found.values()]
        return (block or transformers.Transformers(resamples=200)).compare(runs, sets)

    return build


@pytest.fixture
def answers(make_predictions):
    """Return predictions with about this accuracy on 240 images, in groups of two."""

    def build(share, seed=0):
        right = np.random.default_rng(seed).random(240) < share
        targets = np.arange(240) % 3
        logits = 2.0 * np.eye(3)[np.where(right, targets, (targets + 1) % 3)]
        return make_predictions(targets, logits, groups=[f"g{i // 2}" for i in range(240)], temperature=1.5)

    return build


def test_each_pair_differs_in_one_thing_and_the_rest_are_none(compare, answers):
    sam = {"optimizer": SAM, "record": {"passes_per_step": 2, "train_seconds": 60.0}}
    result = compare(
        {
            "plain": (answers(0.7), {}),
            "sam": (answers(0.75, 1), sam),
            "simclr": (answers(0.8, 2), {"init": SIMCLR}),
            "vit": (answers(0.6, 3), {"net": "vit"}),
            "vit simclr sam": (answers(0.6, 4), {"net": "vit", "init": SIMCLR, **sam}),
            "longer": (answers(0.9, 5), {"record": {"stages": [{"unfreeze": "all", "epochs": 9, "lr": 3e-4}]}}),
        }
    )
    pairs = result.tables["pairs"]
    assert pairs[["changed", "a", "b"]].to_numpy().tolist() == [
        ["sam", "sam", "plain"],
        ["start", "simclr", "plain"],
        ["family", "vit", "plain"],
    ]
    assert pairs[["from", "to"]].to_numpy().tolist() == [
        ["none", "rho 0.05"],
        ["scratch", "simclr ababab"],
        ["convolutional", "transformer"],
    ]
    table = result.tables["recipes"].set_index("recipe")
    assert table["family"].tolist() == ["convolutional"] * 3 + ["transformer"] * 2 + ["convolutional"]
    assert table.loc["sam", ["sam", "passes_per_step", "train_seconds"]].tolist() == [True, 2, 60]
    assert (table.loc["simclr", "start"], table.loc["plain", "start"]) == ("simclr", "scratch")
    assert Reason("other_settings", settings=["epochs"]) in result.warnings


def test_sam_is_also_compared_with_what_as_many_passes_give_without_it(compare, answers):
    def of(passes, *epochs, optimizer=ADAMW):
        stages = [{"unfreeze": "all", "epochs": each, "lr": 3e-4} for each in epochs]
        return {"optimizer": optimizer, "record": {"passes_per_step": passes, "stages": stages}}

    result = compare(
        {
            "sam": (answers(0.75), of(2, 2, 3, optimizer=SAM)),
            "as long": (answers(0.7, 1), of(1, 2, 3)),
            "as dear": (answers(0.8, 2), of(1, 4, 6)),
            "as dear in another stage": (answers(0.8, 3), of(1, 6, 4)),
            "not known": (answers(0.8, 4), of(None, 4, 6)),
            "another network": (answers(0.8, 5), {**of(1, 4, 6), "net": "vit"}),
        }
    )
    pairs = result.tables["pairs"]
    assert pairs[["changed", "a", "b", "epochs"]].to_numpy().tolist() == [
        ["sam", "sam", "as long", "2, 3"],
        ["sam at equal cost", "sam", "as dear", "2, 3 | 4, 6"],
        ["family", "another network", "as dear", "4, 6"],
        ["family", "another network", "not known", "4, 6"],
    ]
    early = {"callbacks": {"others": {"early_stopping": {"patience": 3}}}}
    planned = {
        "sam": (answers(0.75), {**of(2, 2, optimizer=SAM), **early}),
        "dear": (answers(0.8), {**of(1, 4), **early}),
    }
    assert len(compare(planned).tables["pairs"]) == 0


COSINE = {"_target_": "avatar_bench.training.optimization.WarmupCosine", "warmup_epochs": 1}


@pytest.mark.parametrize(
    ("shared", "changed", "pairs"),
    [
        ({"schedule": COSINE}, {}, ["sam"]),
        ({"schedule": COSINE}, {"schedule": COSINE | {"warmup_epochs": 2}}, []),
        # the batch that was really used counts, and not what was written
        ({"record": {"batch_size": 16}}, {"data": {"batch_size": {"cpu": 16, "cuda": 64}}}, ["sam"]),
    ],
)
def test_settings_that_two_recipes_share_part_no_pair_and_others_do(compare, answers, shared, changed, pairs):
    result = compare({"plain": (answers(0.7), shared), "sam": (answers(0.7, 1), shared | {"optimizer": SAM} | changed)})
    assert result.tables["pairs"]["changed"].tolist() == pairs


@pytest.mark.parametrize(
    ("setting", "changed", "values"),
    [
        ("regularisation", {"options": {"drop_path_rate": 0.1}}, ["none", "drop_path_rate 0.1"]),
        ("limit_batches", {"limit_batches": 3}, ["none", "3"]),
        ("batch_size", {"record": {"batch_size": 64}}, ["16", "64"]),
        ("batch_size", {"data": {"batch_size": 8}}, ["16", "8"]),
        # options of entries of users
        ("optimizer_options", {"optimizer": SAM | {"options": {"beta": 0.8}}}, ["none", "beta 0.8"]),
        ("other_callbacks", {"callbacks": {"others": {"rate": {"every": 2}}}}, ["none", "rate every 2"]),
        ("views", {"data": {"augmented_copies": 4}}, ["none", "4"]),
    ],
)
def test_what_changes_training_alone_parts_a_pair_and_is_no_other_network(compare, answers, setting, changed, values):
    result = compare({"plain": (answers(0.7), {}), "sam": (answers(0.8, 1), {"optimizer": SAM} | changed)})
    protocol = result.tables["protocol"].set_index("setting")
    rows = [[value, True, name] for value, name in zip(values, ("plain", "sam"), strict=True)]
    assert protocol.loc[setting, ["value", "differs", "names"]].to_numpy().tolist() == rows
    assert result.tables["recipes"]["architecture"].nunique() == 1
    assert len(result.tables["pairs"]) == 0


def test_a_sam_of_another_rho_is_no_pair_and_weights_of_the_hub_are_told_by_their_tag(compare, answers, draw_saved):
    result = compare(
        {
            "a": (answers(0.7), {"optimizer": SAM}),
            "b": (answers(0.8), {"optimizer": SAM | {"rho": 0.2}}),
            "c": (answers(0.8), {"init": {"weights": "hub"}, "optimizer": ADAMW | {"weight_decay": 0.3}}),
        }
    )
    assert len(result.tables["pairs"]) == 0
    assert "differences" not in draw_saved(result)
    assert Reason("no_pair") in result.warnings
    assert result.tables["recipes"]["start_detail"].tolist() == ["", "", "r160_in1k"]


@pytest.mark.parametrize(
    ("tags", "paired", "warned"),
    [
        (("fb_in1k", "augreg_in1k"), True, False),
        (("a1_in1k", "augreg_in21k_ft_in1k"), False, False),
        (("fb_in1k", "lvd142m"), False, False),
        (("fb_in1k", "mae"), False, False),
        (("lvd142m", "mae"), False, False),
        (("fb_in1k", "ns_jft_in1k"), True, True),
        (("someones", "someones"), True, True),
    ],
)
def test_published_weights_of_two_networks_are_a_pair_where_the_same_data_and_labels_made_them(
    compare, answers, tags, paired, warned
):
    result = compare(
        {
            name: (answers(share, index), {"net": name, "init": HUB, "backbone": f"test_{name}.{tag}"})
            for index, (name, share, tag) in enumerate(zip(("resnet", "vit"), (0.7, 0.8), tags, strict=True))
        }
    )
    assert [tuple(row) for row in result.tables["pairs"][["changed", "a", "b"]].to_numpy()] == [
        ("family", "vit", "resnet")
    ] * paired
    said = [
        format_reason(warning, "transformers") for warning in result.warnings if warning.code == "unknown_pretraining"
    ]
    text = f"vit (published {tags[1]}) − resnet (published {tags[0]})."
    assert [warning.partition("difference: ")[2] for warning in said] == [text] * warned
    table = result.tables["recipes"].set_index("recipe")
    assert table.loc["vit", ["start", "start_detail"]].tolist() == ["published", tags[1]]
    assert table["trained_with"].nunique() == 1 + (tags[0] != tags[1] and tags[1] != "augreg_in1k")


def test_pretrainings_of_two_networks_are_alike_where_their_images_and_epochs_are(compare, answers):
    def simclr(epochs):
        return SIMCLR | {"epochs": epochs, "images_sha256": "cd" * 32}

    for epochs, expected in ((10, 1), (20, 0)):
        other = {"net": "vit", "init": simclr(epochs) | {"sha256": "ef" * 32}}
        result = compare({"a": (answers(0.7), {"init": simclr(10)}), "b": (answers(0.8, 1), other)})
        assert len(result.tables["pairs"]) == expected


def test_differences_and_intervals_are_those_of_significance(compare, answers):
    collected = {
        (r, s): (answers(p, 10 * s + i), {"optimizer": o})
        for i, (r, p, o) in enumerate((("plain", 0.65, ADAMW), ("sam", 0.85, SAM)))
        for s in (1, 2)
    }
    result, other = compare(collected), compare(collected, Significance(resamples=200))
    pair, theirs = result.tables["pairs"].iloc[0], other.tables["pairs"].iloc[0]
    assert (pair["a"], theirs["a"]) == ("sam", "sam")
    columns = ["n", "only_a_correct", "only_b_correct", "p", "p_holm", "difference", "low", "high", "n_required"]
    assert pair[columns].tolist() == theirs[columns].tolist()
    assert pair["significant"]
    right = {key: each.correct for key, (each, _) in collected.items()}
    sam, plain = (np.mean([right[name, seed].mean() for seed in (1, 2)]) for name in ("sam", "plain"))
    assert pair["difference"] == pytest.approx(sam - plain)
    assert result.metrics["accuracy/sam"] == other.metrics["accuracy/sam"]
    metric = result.metrics["difference/sam minus plain"]
    assert (metric.value, metric.low, metric.high) == (pair["difference"], pair["low"], pair["high"])
    expected = [
        calibration_errors(each.probabilities, each.targets)[1]
        for (name, _), (each, _) in collected.items()
        if name == "sam"
    ]
    assert result.metrics["ece/sam"].value == pytest.approx(np.mean(expected))


def test_what_a_pair_could_have_shown_is_said_at_the_strictest_level_of_holm(compare, answers):
    collected = {
        "plain": (answers(0.7), {}),
        "sam": (answers(0.7, 1), {"optimizer": SAM}),
        "simclr": (answers(0.7, 2), {"init": SIMCLR}),
    }
    result = compare(collected)
    pairs = result.tables["pairs"]
    assert not pairs["significant"].any()
    right = np.stack([predictions.correct for predictions, __ in collected.values()])
    members = {name: [index] for index, name in enumerate(collected)}
    recipes = Recipes(members, right, collected["plain"][0].units, (0, 0, 0))
    for _, row in pairs.iterrows():
        positions = recipes.names.index(row["a"]), recipes.names.index(row["b"])
        assert row["detectable"] == recipe_pairs.find_detectable_difference(recipes, *positions, 0.8, 0.05 / 2)
        assert abs(row["difference"]) < row["detectable"]
        assert (row["detectable_reason"], row["n_required_reason"]) == ("", "")
    said = " ".join(format_reason(warning, "transformers") for warning in result.warnings)
    assert "Statistically tied pairs: 2 of 2. A tie is no proof of equality" in said
    assert f"below {100 * pairs['detectable'].min():.1f}–{100 * pairs['detectable'].max():.1f} points" in said
    assert "4 epochs, stage by stage, on 400 training images of 64 pixels" in said


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"unfreeze": "all", "epochs": 1, "lr": 3e-4}, "The budget was one epoch on 400 training images of 64 pixels"),
        ({"unfreeze": "classifier"}, "No epochs: probes were fitted on the features of 400 training images"),
    ],
)
def test_a_budget_of_one_epoch_or_none_is_told_as_such(compare, answers, stage, said):
    short = {"record": {"stages": [stage]}}
    result = compare({"plain": (answers(0.7), short), "sam": (answers(0.7, 1), {"optimizer": SAM} | short)})
    assert said in " ".join(format_reason(warning, "transformers") for warning in result.warnings)


def test_a_pair_says_how_large_its_networks_are_and_warns_where_they_differ_much(compare, answers, nets):
    result = compare({"resnet": (answers(0.7), {}), "vit": (answers(0.8, 1), {"net": "vit"})})
    pair = result.tables["pairs"].iloc[0]
    for side in "ab":
        net, size = nets[pair[side]], NETS[pair[side]][1]
        assert pair[f"params_m_{side}"] == sum(p.numel() for p in net.parameters()) / 1e6
        assert pair[f"macs_g_{side}"] == count_macs(net, size) / 1e9
    sizes = sorted(pair[["params_m_a", "params_m_b"]])
    assert any(warning.code == "unequal_sizes" for warning in result.warnings) == (sizes[1] > 2 * sizes[0])
    recipes = pd.DataFrame({"recipe": ["large", "small", "twice"], "params_m": [86.0, 6.0, 12.0]})
    recipes = recipes.assign(start="scratch", start_detail="", trained_with="")
    pairs = [("family", "large", "small"), ("family", "twice", "small"), ("start", "large", "twice")]
    (said,) = transformers.warn_about_families(pd.DataFrame(pairs, columns=["changed", "a", "b"]), recipes)
    assert format_reason(said, "transformers").endswith("large (86.0 M) − small (6.0 M).")


def test_what_sam_gains_in_one_family_beyond_another_is_the_difference_of_two_pairs(compare, answers, draw_saved):
    shares = {("resnet", ""): 0.7, ("resnet", "sam"): 0.72, ("vit", ""): 0.6, ("vit", "sam"): 0.8}
    collected = {
        (f"{net} {sam}", seed): (answers(share, 10 * seed + index), {"net": net, "optimizer": SAM if sam else ADAMW})
        for index, ((net, sam), share) in enumerate(shares.items())
        for seed in (1, 2)
    }
    result = compare(collected)
    row = result.tables["interactions"].iloc[0]
    assert row[["a", "b", "a_sam", "b_sam", "fewest_seeds"]].tolist() == ["vit ", "resnet ", "vit sam", "resnet sam", 2]
    mean = {name: np.mean([collected[name, seed][0].correct.mean() for seed in (1, 2)]) for name, _ in collected}
    gains = [mean[f"{net} sam"] - mean[f"{net} "] for net in ("vit", "resnet")]
    assert row[["gain_a", "gain_b", "difference"]].tolist() == pytest.approx([*gains, gains[0] - gains[1]])
    metric = result.metrics["interaction/vit sam minus resnet sam"]
    assert (metric.value, metric.low, metric.high) == (row["difference"], row["low"], row["high"])
    assert metric.low < metric.value < metric.high
    right = {key: each.correct for key, (each, _) in collected.items()}
    spread = (metric.high - metric.low) / 3.92
    by_group = np.sum([(-1) ** (("resnet" in n) + n.endswith(" ")) * right[n, s] / 2 for n, s in collected], axis=0)
    plain = np.std(by_group.reshape(-1, 2).mean(axis=1)) / np.sqrt(120)
    assert plain * 0.85 < spread < plain * 2.5  # of groups alone, and of seeds beside them
    assert Reason("few_seeds", n=2, enough=5) in result.warnings
    labels = [tick.get_text() for tick in draw_saved(result)["differences"].axes[0].get_yticklabels()]
    assert (len(labels), labels[-1].splitlines()[0]) == (5, "gain from SAM: test_vit, from scratch")


def test_without_sam_in_both_families_there_is_no_interaction(compare, answers):
    result = compare(
        {
            "resnet": (answers(0.7), {}),
            "resnet sam": (answers(0.8, 1), {"optimizer": SAM}),
            "vit": (answers(0.6, 2), {"net": "vit"}),
            "vit sam": (answers(0.6, 3), {"net": "vit", "optimizer": SAM | {"rho": 0.2}}),
        }
    )
    assert len(result.tables["pairs"]) == 3
    assert len(result.tables["interactions"]) == 0
    assert not any(name.startswith("interaction") for name in result.metrics)


def test_a_figure_without_an_interval_bears_a_reason(compare, answers):
    result = compare(
        {"a": (answers(1.1), {}), "b": (answers(0.7), {"optimizer": SAM, "record": {"train_seconds": None}})}
    )
    assert result.metrics["macro_f1/a"].low is None
    assert result.metrics["macro_f1/a"].reason == Reason("no_spread")
    assert result.metrics["macro_f1/b"].reason is None
    assert result.metrics["train_seconds/b"].reason == Reason("no_time")
    assert result.metrics["train_seconds/a"].value == 30


def test_copies_have_nothing_to_tell_apart_and_nothing_is_claimed(compare, answers):
    result = compare({"plain": (answers(0.7), {}), "sam": (answers(0.7), {"optimizer": SAM})})
    pair = result.tables["pairs"].iloc[0]
    assert (pair["difference"], pair["p"]) == (0, 1)
    assert np.isnan(pair["detectable"])
    assert Reason.parse_cell(pair["detectable_reason"]) == Reason("few_differ")
    assert np.isnan(pair["n_required"])
    assert Reason.parse_cell(pair["n_required_reason"]) == Reason("equally_often_correct")
    assert Reason("tied_undetectable", n=1, all=1) in result.warnings
    assert result.metrics["difference/sam minus plain"].reason


def test_the_protocol_lists_what_is_shared_and_what_is_not(compare, answers):
    other = {"data": {"fingerprint": "d2"}, "process": {"host": "there"}}
    result = compare({"a": (answers(0.7), {}), "b": (answers(0.8), {"record": other, "image_size": 96})})
    protocol = result.tables["protocol"].set_index(["setting", "value"])
    assert protocol.loc[("data_fingerprint", "d1"), ["differs", "names"]].tolist() == [True, "a"]
    assert protocol.loc[("image_size", "96"), "names"] == "b"
    assert protocol.loc[("learning_rate", "0.0003"), ["differs", "recipes"]].tolist() == [False, 2]
    assert Reason("other_settings", settings=["data_fingerprint", "image_size"]) in result.warnings
    assert Reason("other_machines") in result.warnings
    assert len(result.tables["pairs"]) == 0


def test_figures_of_other_blocks_are_means_over_seeds_or_null_with_a_reason(compare, answers):
    def saved(latency):
        about = {"latency_ms/b1": Metric(latency, 1), "peak_memory_mb": Metric(20.0, 1)}
        return lambda block, name: Result(block, name, 1, (), about) if block == "efficiency" else None

    result = compare(
        {
            ("a", 1): (answers(0.7), {"saved": saved(2.0)}),
            ("a", 2): (answers(0.7), {"saved": saved(4.0)}),
            ("b", 1): (answers(0.8), {"saved": saved(5.0), "record": {"train_seconds": None}}),
            ("b", 2): (answers(0.8), {}),
        }
    )
    assert result.metrics["latency_ms/a"].value == 3
    for name in ("latency_ms/b", "robustness/a", "train_seconds/b"):
        assert result.metrics[name].value is None
        assert result.metrics[name].reason
    missing = result.tables["missing"]
    assert missing.loc[missing["metric"] == "latency_ms", "run"].tolist() == ["b 2"]
    assert set(missing.loc[missing["metric"] == "robustness", "recipe"]) == {"a", "b"}
    assert np.isnan(result.tables["recipes"].set_index("recipe").loc["b", "train_seconds"])


@pytest.mark.parametrize("language", ["en", pytest.param("ru", marks=pytest.mark.slow)])
def test_all_figures_are_drawn_whole_and_that_of_differences_holds_every_interval(
    compare, answers, inside, language, draw_saved
):
    tags = {"backbone": "resnet50.a1_in1k", "card": SimpleNamespace(backbone="resnet50.a1_in1k")}
    collected = {
        "cnn": (answers(0.6), {}),
        "cnn sam": (answers(0.9, 1), {"optimizer": SAM}),
        "vit": (answers(0.9, 2), {"net": "vit"}),
        "vit sam": (answers(0.6, 3), {"net": "vit", "optimizer": SAM}),
        "a name of a recipe that goes on and on": (answers(0.7, 4), tags | {"init": {"weights": "hub"}}),
    }
    result = compare(collected)
    with use_language(language):
        drawn = draw_saved(result)
    assert set(drawn) == {"accuracy", "cost", "differences", "history", "study"}
    assert [name for name, figure in drawn.items() if not inside(figure)] == []
    tables = [result.tables[name][["low", "high"]] for name in ("pairs", "interactions")]
    ends = 100 * pd.concat(tables).to_numpy(float)
    low, high = drawn["differences"].axes[0].get_xlim()
    assert len(tables[1]) == 1
    assert low < ends.min() - 0.01 * (high - low)
    assert high > ends.max() + 0.01 * (high - low)


def test_recipes_of_one_network_and_start_have_different_names(compare, answers, draw_saved):
    shots = {"record": {"mode": "few_shot"}}
    result = compare({"many": (answers(0.7), {}), "few shots": (answers(0.6, 1), shots)})
    labels = [tick.get_text() for tick in draw_saved(result)["accuracy"].axes[0].get_yticklabels()]
    assert [label.splitlines()[-1] for label in labels] == ["many", "few shots"]


def test_recipes_are_grouped_by_family_the_best_first():
    table = pd.DataFrame({"family": ["transformer", "convolutional", "convolutional"], "accuracy": [0.9, 0.5, 0.6]})
    assert figures.sort_by_family(table)["accuracy"].tolist() == [0.6, 0.5, 0.9]


@pytest.mark.parametrize(("equal", "language"), [(2, "en"), (8, "ru"), (20, "en"), (20, "ru")])
def test_the_numbers_in_the_chart_of_cost_can_be_read_where_recipes_are_equal(equal, language):
    others = np.linspace(0, 0.04, 20 - equal)
    accuracy = np.concatenate([np.full(equal, 0.85), 0.85 - others])
    rows = pd.DataFrame({"accuracy": accuracy, "accuracy_low": accuracy - 0.04, "accuracy_high": accuracy + 0.04})
    rows = rows.assign(recipe=[f"r{number}" for number in range(20)], sam=rows.index % 2 == 0, family="transformer")
    rows = rows.assign(train_seconds=[*[100.0] * equal, *(100 + 50 * others)])
    rows.loc[1, "train_seconds"] = np.nan  # its number, that of the other chart, is left out
    with use_language(language):
        figure = figures.draw_cost(rows)
    figure.canvas.draw()
    axes = figure.axes[0]
    texts = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in texts] == [f"{number}" for number in range(1, 21) if number != 2]
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())
    points = axes.transData.transform(rows[["train_seconds", "accuracy"]].dropna())
    radius = 3 * figure.dpi / 72  # of a marker of 6 points
    assert not any(box.padded(radius).contains(*point) for box in boxes for point in points)


def test_every_published_figure_bears_its_source():
    table = tables.read_published("history")
    assert len(table) > 15
    assert table.notna().all(axis=None)
    assert table["year"].is_monotonic_increasing
    assert table["network"].is_unique
    assert table["published_top1"].between(0.5, 1).all()
    assert set(table["family"]) <= set(figures.FAMILIES)
    assert table["paper"].str.startswith("https://").all()
    assert table["citation"].str.contains(r"\d{4}$").all()


RECIPES = {  # recipe: architecture, what trained its weights, SAM
    "cnn": ("resnet50", "", False),
    "cnn sam": ("resnet50", "labels of ImageNet-1k", True),
    "conv": ("convnext_tiny", "labels of ImageNet-1k", False),
    "vit": ("vit_base_patch16_224", "", False),
    "vit of labels": ("vit_base_patch16_224", "labels of ImageNet-21k, then 1k", False),
    "vit sam": ("vit_small_patch16_224", "labels of ImageNet-1k", True),
    "mae": ("vit_base_patch16_224", "masked autoencoding on ImageNet-1k", False),
    "dino": ("vit_base_patch14_dinov2", "DINOv2 on LVD-142M", False),
    "small": ("vit_small_patch16_224", "labels of ImageNet-21k, then 1k", False),
    "cut": ("vit_base_patch16_224 depth=2", "", False),
    "other": ("mobilenetv3_small_100", "", False),
    "deit sam": ("deit3_small_patch16_224", "", True),
    "of a file": ("vit_base_patch16_224", "?", False),
}


def test_what_the_study_typed_in_stands_beside_the_same_networks_of_ours():
    recipes = pd.DataFrame(
        [(name, *made) for name, made in RECIPES.items()], columns=["recipe", "architecture", "trained_with", "sam"]
    ).assign(accuracy=0.6, accuracy_low=0.5, accuracy_high=0.7, params_m=9.0, latency_ms=20.0, n=240)
    table = tables.build_study_table(
        recipes.assign(start=np.where(recipes["trained_with"] == "", "scratch", "published"))
    )
    beside = table.groupby(["block", "network"], sort=False)["recipe"].agg(lambda own: sorted(own.dropna())).to_dict()
    assert beside == {
        (22, "ResNet-50"): [],
        (22, "EfficientNet-B0"): [],
        (22, "ConvNeXt-Tiny"): ["conv"],
        (22, "ViT-B/16"): ["vit of labels"],
        (22, "SAM + ViT (fine-tune)"): ["vit sam"],
        (22, "Self-Supervised ViT"): ["dino", "mae"],
        (23, "ConvNeXt-Tiny"): ["conv"],
        (23, "ViT-Base (pretrained)"): ["mae", "of a file", "vit of labels"],
        (23, "ViT-Small (pretrained)"): ["small"],
    }
    assert table["where"].str.match(r"https://\S+/[0-9a-f]{40}/").all()
    ours = table["recipe"].notna()
    why = {row["network"]: Reason.parse_cell(row["reason"]) for _, row in table[~ours].iterrows()}
    assert why == {"ResNet-50": Reason("from_scratch"), "EfficientNet-B0": Reason("no_recipe")}
    assert (table.loc[ours, "reason"] == "").all()
    assert (table.loc[ours, "seconds"] == 0.02).all()
    assert table.loc[~ours, ["accuracy", "params_m", "seconds"]].isna().all(axis=None)


def test_the_chart_beside_the_study_is_drawn_where_there_is_something_beside(compare, answers, draw_saved):
    tags = {"backbone": "resnet50.a1_in1k", "card": SimpleNamespace(backbone="resnet50.a1_in1k")}
    runs = {"one": (answers(0.6), {}), "two": (answers(0.6, 1), tags)}
    assert "study" not in draw_saved(compare(runs))  # from scratch, the typed figure is of no such network
    result = compare(runs | {"three": (answers(0.7), tags | {"init": {"weights": "hub"}})})
    unnamed, avatars = draw_saved(result)["study"].axes
    table = result.tables["study"]
    (top1,), (typed, measured) = ([line.get_xdata() for line in axes.lines] for axes in (unnamed, avatars))
    np.testing.assert_array_equal(top1, table["reported_accuracy"].where(table["block"] == 22))
    np.testing.assert_array_equal(typed, table["reported_accuracy"].where(table["block"] == 23))
    labels = [tick.get_text() for tick in unnamed.get_yticklabels()]
    assert labels[:2] == [
        "ResNet-50 (block 22 of the study)\nthree",
        "EfficientNet-B0 (block 22 of the study)\nno recipe of this network",
    ]
    row = table.set_index("recipe").loc["three"]
    assert np.nansum(measured) == row["accuracy"] == result.metrics["accuracy/three"].value
    assert (row["accuracy_low"], row["accuracy_high"]) == (
        result.metrics["accuracy/three"].low,
        result.metrics["accuracy/three"].high,
    )


def test_what_cannot_be_compared_is_refused(compare, answers, oracle):
    with pytest.raises(BlockError, match="compares at least 2 runs"):
        compare({"a": (answers(0.7), {})})
    with pytest.raises(GuardError, match="wrong order"):
        compare({"a": (oracle("noisy"), {}), "b": (oracle(("permuted", (1, 2, 0))), {})})
    with pytest.raises(ConfigError, match=r"block\.transformers\.power=2"):
        transformers.Transformers(power=2)
