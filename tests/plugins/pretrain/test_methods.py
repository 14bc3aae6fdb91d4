"""Pretraining methods: losses against counts by hand."""

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from avatar_bench.errors import ConfigError
from avatar_bench.plugins.pretrain.methods import DINO, MAE, MethodOptions, SimCLR, choose_shape_options, create_method

VIT = {"img_size": 64, "num_classes": 0}


def flat():
    """Network whose embedding of a one-pixel image is its three values."""
    return nn.Flatten()


def pixels(*vectors):
    return torch.tensor(vectors).view(-1, 3, 1, 1)


def test_the_loss_of_simclr_is_a_count_by_hand_on_four_vectors():
    method = SimCLR(flat(), 1, MethodOptions("simclr", temperature=0.2, projection=3))
    method.head = nn.Identity()
    first, second = [(1.0, 0.0, 0.0), (0.0, 2.0, 0.0)], [(0.8, 0.6, 0.0), (0.0, 1.0, 1.0)]
    vectors = [np.array(vector) / np.linalg.norm(vector) for vector in first + second]
    losses = []
    for row, vector in enumerate(vectors):
        similar = {other: math.exp(vector @ vectors[other] / 0.2) for other in range(4) if other != row}
        losses.append(-math.log(similar[(row + 2) % 4] / sum(similar.values())))
    assert float(method([pixels(*first), pixels(*second)]).detach()) == pytest.approx(np.mean(losses), rel=1e-5)


def test_dino_compares_each_view_with_the_teachers_other_and_centres_that():
    method = DINO(flat(), 1, MethodOptions("dino", temperature=0.05, projection=3, momentum=0.9))
    method.head = method.teacher_head = nn.Identity()
    views = [pixels((0.2, 0.0, 0.1)), pixels((0.0, 0.3, 0.1))]
    vectors = [view.flatten().numpy().astype(float) for view in views]

    def share(vector, temperature):
        powers = np.exp(vector / temperature)
        return np.asarray(powers / powers.sum())

    crossed = [-share(vectors[a], 0.05) @ np.log(share(vectors[b], 0.1)) for a, b in ((0, 1), (1, 0))]
    assert float(method(views).detach()) == pytest.approx(np.mean(crossed), rel=1e-4)
    assert method.criterion.center.flatten().numpy() == pytest.approx(0.1 * np.mean(vectors, axis=0), rel=1e-4)


def test_the_teacher_is_an_average_of_the_student_and_learns_nothing_itself():
    net = timm.create_model("test_resnet", num_classes=0)
    method = DINO(net, 32, MethodOptions("dino", temperature=0.04, projection=8, momentum=0.75, local_views=1))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method([images, images.flip(3), images[..., :16, :16]]).backward()
    assert all(parameter.grad is None for parameter in method.backbone.parameters())
    before, step = next(method.backbone.parameters()).clone(), 0.5
    with torch.no_grad():
        next(method.student.parameters()).add_(step)
    method.update_teacher(0.0)
    assert torch.allclose(next(method.backbone.parameters()), before + 0.25 * step, atol=1e-6)
    method.update_teacher(1.0)  # no update at the end
    assert torch.allclose(next(method.backbone.parameters()), before + 0.25 * step, atol=1e-6)


def test_what_the_teacher_says_does_not_depend_on_chance():
    net = timm.create_model("test_vit", **VIT, drop_path_rate=0.5, proj_drop_rate=0.5)
    method = DINO(net, 64, MethodOptions("dino", temperature=0.04, projection=8, momentum=0.75)).train()
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    said, learned = ([net(images) for _ in range(2)] for net in (method.backbone, method.student))
    assert torch.equal(*said)
    assert not torch.equal(*learned)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "test_vit"])
def test_vision_transformers_of_one_size_take_small_views_too(name):
    options = MethodOptions("dino", temperature=0.04, projection=8, momentum=0.9, local_views=1)
    net = timm.create_model(name, num_classes=0, img_size=64, depth=1, **choose_shape_options(options, name))
    method = create_method(net, 64, options)
    assert torch.isfinite(method([torch.rand(2, 3, side, side) for side in (64, 64, 32)]))


def test_the_loss_of_mae_is_the_error_on_normalised_hidden_patches():
    method = MAE(timm.create_model("test_vit", **VIT), 64, MethodOptions("mae", 0, 0, 0, 0, 0.75, 1, 32))
    nn.init.zeros_(method.predict.weight)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    values = 3 * 16**2  # of a patch; their variance around the own mean is (n - 1) / n
    assert float(method([images]).detach()) == pytest.approx((values - 1) / values, rel=1e-4)
    assert method.patches == 16


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("test_resnet", 32, MethodOptions("mae", 0, 0, 0, 0, 0.75, 1, 32), "does not divide images into patches"),
        ("test_vit", 32, MethodOptions("mae", 0, 0, 0, 0, 0.9, 1, 32), "leaves none of the 4 patches"),
        ("test_vit2", 64, MethodOptions("dino", 0.04, 8, 0.9, 2), "does not accept small views"),
    ],
)
def test_what_a_network_cannot_learn_by_is_refused(name, size, options, message):
    kept = {"img_size": size, "dynamic_img_size": False} if name == "test_vit2" else {}
    net = timm.create_model(name.removesuffix("2"), num_classes=0, **kept)
    with pytest.raises(ConfigError, match=message) as error:
        create_method(net, size, options)
    assert len(error.value.lines) <= 3
