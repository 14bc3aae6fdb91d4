"""The classifier: one pass for logits and embeddings."""

import pytest
import torch

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoint import read_checkpoint
from avatar_bench.models.classifier import Classifier
from tests.models.small import ARCHITECTURES, CARD, build_classifier, images, normalised, side_of


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_one_pass_gives_the_networks_own_logits_and_their_embeddings(model, network):
    net = network(model).eval()
    classifier = Classifier(CARD, net).eval()
    batch = images(2, side_of(net))
    with torch.inference_mode():
        logits, embeddings = classifier(batch)
        torch.testing.assert_close(logits, net(normalised(batch)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net.get_classifier()(embeddings), logits)
    assert logits.shape == (2, 3)
    assert embeddings.shape == (2, net.get_classifier().in_features)


@pytest.mark.parametrize(("n", "parts"), [(1, [1]), (31, [31]), (32, [16, 16]), (50, [17, 17, 16])])
def test_a_batch_passes_in_parts_of_16_images_or_some_more_and_its_logits_as_a_whole(n, parts):
    classifier, batch, seen = build_classifier("test_resnet"), images(n), []
    classifier.net.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    classifier.net.fc.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.inference_mode():
        in_parts = classifier.compute(batch)
        assert seen == [*parts, n]
        for computed, expected in zip(in_parts, classifier(batch), strict=True):
            torch.testing.assert_close(computed, expected)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("test_vit", {"depth": 4096}),
        ("test_vit", {"embed_dim": 4096, "mlp_ratio": 4096, "num_heads": 1}),
        ("test_vit", {"img_size": 4096, "patch_size": 1}),
        ("convnext_tiny", {"depths": [4096] * 16}),
        ("convnext_tiny", {"dims": [4096, 4096, 4096, 4096]}),
        ("resnet50", {}),
    ],
)
def test_a_network_that_is_larger_than_its_weights_takes_no_memory(small_checkpoint, backbone, options, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        Classifier.load(small_checkpoint(tmp_path / "x.ckpt", backbone=backbone, options=options))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize("spoil", ["nan", "more", "less", "shape", "type"])
def test_weights_that_are_not_the_networks_are_refused(spoil, tiny_run, tmp_path):
    checkpoint = read_checkpoint(tiny_run / "checkpoints" / "best.ckpt")
    state = checkpoint["state_dict"]
    bias = state["net.fc.bias"]
    changes = {
        "nan": {"net.fc.bias": bias * torch.nan},
        "shape": {"net.fc.bias": bias[:2]},
        "type": {"net.fc.bias": bias.double()},
        "more": {"net.more": bias},
    }
    state.update(changes.get(spoil, {}))
    if spoil == "less":
        del state["net.fc.bias"]
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="do not fit"):
        Classifier.load(tmp_path / "x.ckpt")
