"""Batch norms folded into convolutions: equal outputs, and networks in which that is not possible."""

import torch
from torch import nn

from avatar_bench.models.backbones import create_backbone
from avatar_bench.models.batch_norm_folding import fold_batch_norms
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card

PREPROCESSING = {"size": 64, "resize": "squash", "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.3, 0.2]}


def make_classifier(net, backbone="test_resnet"):
    """Return a classifier whose batch norms have seen other statistics than 0 and 1."""
    torch.manual_seed(0)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, 0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    return Classifier(Card(("a", "b"), backbone, PREPROCESSING), net).eval()


def count_norms(classifier):
    return sum(isinstance(module, nn.BatchNorm2d) for module in classifier.modules())


class Reused(nn.Module):
    """Network in which a sum reads the convolution's output beside its batch norm."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.classifier = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward_features(self, images):
        made = self.convolution(images)
        return made + self.norm(made)

    def forward_head(self, features, pre_logits):
        return features.relu().mean((2, 3))

    def get_classifier(self):
        return self.classifier


class Repeated(Reused):
    """Network that applies one batch norm to the outputs of two passes of a convolution."""

    def forward_features(self, images):
        return self.norm(self.convolution(images)) + self.norm(self.convolution(images.flip(3)))


def test_outputs_are_those_of_the_network_to_rounding_and_one_that_would_compute_others_is_kept():
    for backbone, left in (
        ("test_resnet", 0),
        ("mobilenetv3_small_100", 0),
        ("efficientnet_lite0", 0),
        ("densenet121", 62),  # norms before a convolution
        ("test_vit", 0),
    ):
        classifier = make_classifier(create_backbone(backbone, 2), backbone)
        norms = count_norms(classifier)
        state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
        folded = fold_batch_norms(classifier)
        assert (folded is classifier) == (not norms)
        assert count_norms(folded) == left
        images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
        with torch.inference_mode():
            for output, expected in zip(folded(images), classifier(images), strict=True):
                torch.testing.assert_close(output, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert count_norms(classifier) == norms
        torch.testing.assert_close(classifier.state_dict(), state, rtol=0, atol=0)
    for kind in (Reused, Repeated):
        classifier = make_classifier(kind())
        assert fold_batch_norms(classifier) is classifier
