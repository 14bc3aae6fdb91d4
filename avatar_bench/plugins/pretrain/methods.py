"""Self-supervised learning methods on lightly: SimCLR, DINO and MAE.

A method maps a list of normalised views, (N, 3, S, S) each, to a loss. Its `backbone` is the network that is probed
and saved.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import timm
import torch
from lightly.loss.dino_loss import DINOLoss
from lightly.loss.ntx_ent_loss import NTXentLoss
from lightly.models import utils
from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM, init_weights
from lightly.utils.scheduler import cosine_schedule
from timm.layers.drop import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from avatar_bench.errors import ConfigError


@dataclass(frozen=True)
class MethodOptions:
    """Options of a method, as in method/ of the plug-in; 0 for options of other methods."""

    name: str
    temperature: float = 0.0
    projection: int = 0
    momentum: float = 0.0
    local_views: int = 0
    mask_ratio: float = 0.0
    decoder_depth: int = 0
    decoder_width: int = 0


class SimCLR(nn.Module):
    """SimCLR: contrast of two views of an image with all other views in the batch (Chen et al., ICML 2020)."""

    def __init__(self, net: nn.Module, size: int, options: MethodOptions) -> None:
        super().__init__()
        self.backbone = net
        width = compute_embedding_width(net, size)
        self.head = SimCLRProjectionHead(width, width, options.projection)
        self.criterion = NTXentLoss(options.temperature)

    def forward(self, views: list[Tensor]) -> Tensor:
        first, second = self.head(self.backbone(torch.cat(views))).chunk(2)
        loss: Tensor = self.criterion(first, second)
        return loss


class DINO(nn.Module):
    """DINO: a student predicts, from every view, the output of its moving average (the teacher) on the large views.

    Caron et al., ICCV 2021. The teacher is the backbone that is saved. Its outputs are centred to prevent collapse.
    """

    def __init__(self, net: nn.Module, size: int, options: MethodOptions) -> None:
        super().__init__()
        self.momentum = options.momentum
        self.student, self.backbone = net, copy.deepcopy(net)
        width = compute_embedding_width(net, size)
        if options.local_views:
            small = compute_local_size(size)
            try:
                assert compute_embedding_width(net, small) == width
            except (ConfigError, AssertionError) as error:
                raise ConfigError(
                    f"method=dino: this network does not accept small views of {small} pixels besides the large ones.",
                    "Set method.local_views=0, or choose a data.image_size whose half the network accepts.",
                ) from error
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch's, about lightly's weight norm
            self.head, self.teacher_head = (
                DINOProjectionHead(width, width, min(256, width), options.projection, freeze_last_layer=1)
                for _ in range(2)
            )
        self.teacher_head.load_state_dict(self.head.state_dict())
        for module in self.backbone.modules():  # the teacher must be deterministic
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, DropPath):
                module.drop_prob = 0.0
        self.backbone.requires_grad_(False)
        self.teacher_head.requires_grad_(False)
        self.criterion = DINOLoss(options.projection, teacher_temp=options.temperature, warmup_teacher_temp_epochs=0)

    def forward(self, views: list[Tensor]) -> Tensor:
        large = torch.cat(views[:2])
        with torch.no_grad():
            teacher_outputs = self.teacher_head(self.backbone(large)).chunk(2)
        student_outputs = list(self.head(self.student(large)).chunk(2))
        if small := views[2:]:
            student_outputs += self.head(self.student(torch.cat(small))).chunk(len(small))
        loss: Tensor = self.criterion(list(teacher_outputs), student_outputs)
        return loss

    def update_teacher(self, done: float) -> None:
        """Update the teacher as a moving average of the student; the momentum rises to 1 as `done` does."""
        momentum = cosine_schedule(round(1e6 * min(done, 1.0)), 10**6, self.momentum, 1.0)
        utils.update_momentum(self.student, self.backbone, momentum)
        utils.update_momentum(self.head, self.teacher_head, momentum)


class MAE(nn.Module):
    """Masked autoencoder (MAE): reconstruction of masked patches from the visible ones, for ViTs.

    He et al., CVPR 2022. The loss is the mean squared error on masked patches, each normalised to mean 0 and variance
    1. With `pretrained`, the weights of the network are kept; otherwise the method initialises them.
    """

    def __init__(self, net: nn.Module, size: int, options: MethodOptions, pretrained: bool = False) -> None:
        super().__init__()
        if not isinstance(net, VisionTransformer) or net.pos_embed is None:
            raise ConfigError(
                f"method=mae masks patches, but {type(net).__name__} does not divide images into patches.",
                "Choose a vision transformer, such as model=timm model.backbone=vit_small_patch16_224;",
                "or method=simclr or dino, which work with any network.",
            )
        compute_embedding_width(net, size)
        self.patch, self.prefix = int(net.patch_embed.patch_size[0]), int(net.num_prefix_tokens)
        self.patches, self.mask_ratio = (size // self.patch) ** 2, options.mask_ratio
        if size % self.patch:
            raise ConfigError(f"data.image_size={size}: method=mae needs a multiple of {self.patch}, the patch size.")
        if int(self.patches * (1 - self.mask_ratio)) < 1:
            raise ConfigError(
                f"method.mask_ratio={self.mask_ratio} leaves none of the {self.patches} patches visible.",
                "Choose a smaller ratio, or a larger data.image_size.",
            )
        sincos = not pretrained and not net.no_embed_class
        self.encoder = MaskedVisionTransformerTIMM(
            net,
            weight_initialization="skip" if pretrained else "",
            pos_embed_initialization="sincos" if sincos else "skip",
        )
        wide = options.decoder_width
        self.embed = nn.Linear(net.embed_dim, wide)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            self.patches, wide, options.decoder_depth, wide // 32, self.prefix
        )
        self.predict = nn.Linear(wide, 3 * self.patch**2)
        for layer in (self.embed, self.predict):
            init_weights(layer)

    @property
    def backbone(self) -> nn.Module:
        """Return the vision transformer."""
        net: nn.Module = self.encoder.vit
        return net

    def forward(self, views: list[Tensor]) -> Tensor:
        (images,) = views
        n, tokens = len(images), self.prefix + self.patches
        visible, masked = utils.random_token_mask(
            (n, self.patches), self.mask_ratio, mask_class_token=True, device=images.device
        )
        prefix = torch.arange(self.prefix, device=images.device).expand(n, -1)
        keep = torch.cat([prefix, visible + self.prefix], dim=1)
        encoded = self.embed(self.encoder.encode(images, idx_keep=keep))
        mask_tokens = utils.repeat_token(self.decoder.mask_token, (n, tokens)).to(encoded.dtype)
        decoded = self.decoder(utils.set_at_index(mask_tokens, keep, encoded))
        predicted = self.predict(utils.get_at_index(decoded, masked + self.prefix))
        target = utils.get_at_index(utils.patchify(images, self.patch), masked)
        return functional.mse_loss(predicted.float(), utils.normalize_mean_var(target))


Method = SimCLR | DINO | MAE


def create_method(net: nn.Module, size: int, options: MethodOptions, pretrained: bool = False) -> Method:
    """Build a method around a network without a classifier, for images of `size` pixels.

    Raises ConfigError if the method does not support the network.
    """
    if options.name == "mae":
        return MAE(net, size, options, pretrained)
    return SimCLR(net, size, options) if options.name == "simclr" else DINO(net, size, options)


def compute_local_size(size: int) -> int:
    """Return the size of small views: half the large size, so a multiple of 16 if the large size is one of 32."""
    return size // 2


def choose_shape_options(options: MethodOptions, name: str) -> dict[str, bool]:
    """Return the timm options that let a ViT take small views too, by interpolating position embeddings."""
    if not options.local_views or not timm.is_model(name):
        return {}
    with torch.device("meta"):
        net = timm.create_model(name)
    return {"dynamic_img_size": True} if isinstance(net, VisionTransformer) else {}


@torch.no_grad()
def compute_embedding_width(net: nn.Module, size: int) -> int:
    """Compute the embedding dimension of a network; raise ConfigError if it does not accept images of `size`."""
    was_training = net.training
    try:
        embeddings: Tensor = net.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"data.image_size={size} does not fit the network: {str(error).splitlines()[0].rstrip('.')}.",
            "Choose another size, or set the network's: 'model.options={img_size: N}' for a vision transformer.",
        ) from error
    finally:
        net.train(was_training)
    return embeddings.shape[1]
