"""Tests of what the tags of published weights say, for every model of conf/model."""

import pytest
import yaml

from avatar_bench.config.catalogue import find_choices
from avatar_bench.evaluation.starting_weights import describe_pretraining, find_newest_images, find_tag

ONE = "labels of ImageNet-1k"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        *((tag, ONE) for tag in ("in1k", "fb_in1k", "augreg_in1k", "ra4_e3600_r224_in1k", "a1h_in1k")),
        *((tag, "labels of ImageNet-21k, then 1k") for tag in ("augreg_in21k_ft_in1k", "fb_in22k_ft_in1k_384")),
        ("in12k_ft_in1k", "labels of ImageNet-12k, then 1k"),
        ("lvd142m", "DINOv2 on LVD-142M"),
        ("mae", "masked autoencoding on ImageNet-1k"),
        ("fb_dino", "DINO on ImageNet-1k"),
        ("fcmae_ft_in1k", "masked autoencoding on ImageNet-1k, then its labels"),
        ("openai", "texts of 400 M images"),
        ("clip_laion2b_augreg", "texts of LAION-2B"),
        ("dinov3_lvd1689m", "DINOv3 on LVD-1689M"),
        ("fb", "texts of images and videos of Perception Encoder"),
        # a teacher, other images, another optimizer, a beginning without labels, a tag of several meanings
        *((tag, "") for tag in ("fb_dist_in1k", "ns_jft_in1k", "sam_in1k", "in1k_ft_in1k", "in22k_ft_in1k")),
        *(("", ""), ("mine", "")),
    ],
)
def test_a_tag_says_what_weights_were_trained_with(tag, expected):
    assert describe_pretraining(tag) == expected


def test_the_weights_of_every_model_are_known_and_transformers_have_partners():
    files = {name: yaml.safe_load(file.read_text(encoding="utf-8")) for name, file in find_choices("model").items()}
    backbones = {name: recipe["model"]["backbone"] for name, recipe in files.items() if name != "timm"}
    labels = {name: describe_pretraining(find_tag(backbone)) for name, backbone in backbones.items()}
    names = ("resnet18", "vit_base_patch16_224.mae", "none of timm")  # without a tag: the default weights
    assert [find_tag(name) for name in names] == ["a1_in1k", "mae", ""]
    assert all(labels.values())
    assert all(2012 <= (find_newest_images(text) or 0) <= 2025 for text in labels.values())
    assert find_newest_images("labels of ImageNet-21k, then texts of LAION-2B") == 2022  # the newest of both
    assert find_newest_images("") is None
    partners = ("resnet50", "convnext_tiny_in1k", "mobilenetv3_small", "vit_small_in1k", "deit_small", "swin_tiny")
    assert {labels[name] for name in partners} == {ONE}
    others = ("convnext_tiny", "vit_small", "dinov2_small", "mae_base", "clip_vit_b16", "clip_vit_b32")
    assert len({labels[name] for name in others} | {ONE}) == 7
