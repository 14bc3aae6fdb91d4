"""Methods of self-supervised learning: what each makes of the views of a batch, and its loss, by lightly.

A method is called with a list of normalised views, (N, 3, S, S) each, and gives a loss. Its `backbone` is what is
judged and kept, and `follow` is called with the share of the training that is done before each step.
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
    """How a method learns, as in conf/method; 0 where another method reads it."""

    name: str
    temperature: float = 0.0
    projection: int = 0
    momentum: float = 0.0
    local_views: int = 0
    mask_ratio: float = 0.0
    decoder_depth: int = 0
    decoder_width: int = 0


class SimCLR(nn.Module):
    """Tell the two views of an image from those of all others in the batch (Chen et al., ICML 2020)."""

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

    @property
    def student(self) -> nn.Module:
        """Give the network that learns, which is what is kept."""
        return self.backbone

    def update_teacher(self, done: float) -> None:
        """Do nothing: there is no teacher."""


class DINO(nn.Module):
    """Have a student say of every view what its own moving average, the teacher, says of the large ones.

    Caron et al., ICCV 2021. The teacher is what is kept. Its outputs are centred, so that not all images come to
    have one answer.
    """

    def __init__(self, net: nn.Module, size: int, options: MethodOptions) -> None:
        super().__init__()
        self.momentum = options.momentum
        self.student, self.backbone = net, copy.deepcopy(net)
        width = compute_embedding_width(net, size)
        if options.local_views:
            _refuse_fixed_size(net, compute_local_size(size), width)
        self.head, self.teacher_head = (
            _build_dino_head(width, options.projection),
            _build_dino_head(width, options.projection),
        )
        self.teacher_head.load_state_dict(self.head.state_dict())
        for module in self.backbone.modules():  # what it teaches is not to depend on chance
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
            taught = self.teacher_head(self.backbone(large)).chunk(2)
        learned = list(self.head(self.student(large)).chunk(2))
        if small := views[2:]:
            learned += self.head(self.student(torch.cat(small))).chunk(len(small))
        loss: Tensor = self.criterion(list(taught), learned)
        return loss

    def update_teacher(self, done: float) -> None:
        """Move the teacher towards the student, by ever less."""
        momentum = cosine_schedule(round(1e6 * min(done, 1.0)), 10**6, self.momentum, 1.0)
        utils.update_momentum(self.student, self.backbone, momentum)
        utils.update_momentum(self.head, self.teacher_head, momentum)


class MAE(nn.Module):
    """Paint the hidden patches of an image from those that are left (He et al., CVPR 2022); for ViTs.

    The loss is the squared error on hidden patches, each normalised to mean 0 and variance 1. With `pretrained`, the
    weights of the network are kept as they are; else they get the initialisation of the method.
    """

    def __init__(self, net: nn.Module, size: int, options: MethodOptions, pretrained: bool = False) -> None:
        super().__init__()
        if not isinstance(net, VisionTransformer) or net.pos_embed is None:
            raise ConfigError(
                f"method=mae hides patches, and {type(net).__name__} does not see an image as patches.",
                "Choose a vision transformer, such as model=timm model.backbone=vit_small_patch16_224;",
                "or method=simclr or dino, which take any network.",
            )
        compute_embedding_width(net, size)
        self.patch, self.prefix = int(net.patch_embed.patch_size[0]), int(net.num_prefix_tokens)
        self.patches, self.mask_ratio = (size // self.patch) ** 2, options.mask_ratio
        if size % self.patch:
            raise ConfigError(f"data.image_size={size}: method=mae needs a multiple of {self.patch}, a patch's pixels.")
        if int(self.patches * (1 - self.mask_ratio)) < 1:
            raise ConfigError(
                f"method.mask_ratio={self.mask_ratio} leaves none of {self.patches} patches to see.",
                "Choose a smaller one, or a larger data.image_size.",
            )
        plain = not pretrained and not net.no_embed_class
        self.encoder = MaskedVisionTransformerTIMM(
            net,
            weight_initialization="skip" if pretrained else "",
            pos_embed_initialization="sincos" if plain else "skip",
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
        """Give the vision transformer."""
        net: nn.Module = self.encoder.vit
        return net

    @property
    def student(self) -> nn.Module:
        """Give the network that learns, which is what is kept."""
        return self.backbone

    def forward(self, views: list[Tensor]) -> Tensor:
        (images,) = views
        n, tokens = len(images), self.prefix + self.patches
        seen, hidden = utils.random_token_mask(
            (n, self.patches), self.mask_ratio, mask_class_token=True, device=images.device
        )
        prefix = torch.arange(self.prefix, device=images.device).expand(n, -1)
        kept = torch.cat([prefix, seen + self.prefix], dim=1)
        encoded = self.embed(self.encoder.encode(images, idx_keep=kept))
        whole = utils.repeat_token(self.decoder.mask_token, (n, tokens)).to(encoded.dtype)
        decoded = self.decoder(utils.set_at_index(whole, kept, encoded))
        painted = self.predict(utils.get_at_index(decoded, hidden + self.prefix))
        target = utils.get_at_index(utils.patchify(images, self.patch), hidden)
        return functional.mse_loss(painted.float(), utils.normalize_mean_var(target))

    def update_teacher(self, done: float) -> None:
        """Do nothing: there is no teacher."""


Method = SimCLR | DINO | MAE


def create_method(net: nn.Module, size: int, options: MethodOptions, pretrained: bool = False) -> Method:
    """Build a method around a network without classifier that takes images of `size` pixels.

    Raise ConfigError where the network cannot learn so.
    """
    if options.name == "mae":
        return MAE(net, size, options, pretrained)
    return SimCLR(net, size, options) if options.name == "simclr" else DINO(net, size, options)


def count_views(options: MethodOptions) -> tuple[int, int]:
    """Give how many large and how many small views of an image a method takes."""
    return (1 if options.name == "mae" else 2), options.local_views


def compute_local_size(size: int) -> int:
    """Give the size of small views: half that of the large ones, a multiple of 16 where that is one of 32."""
    return size // 2


def choose_shape_options(options: MethodOptions, name: str) -> dict[str, bool]:
    """Give the options of timm by which a network takes the small views too, whose positions it must interpolate."""
    if not options.local_views or not timm.is_model(name):
        return {}
    with torch.device("meta"):
        net = timm.create_model(name)
    return {"dynamic_img_size": True} if isinstance(net, VisionTransformer) else {}


@torch.no_grad()
def compute_embedding_width(net: nn.Module, size: int) -> int:
    """Give how many numbers an embedding of a network has; raise ConfigError where it takes no image of `size`."""
    before = net.training
    try:
        made: Tensor = net.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"data.image_size={size} does not fit the network: {str(error).splitlines()[0].rstrip('.')}.",
            "Choose another, or one that fits it: 'model.options={img_size: N}' for a vision transformer.",
        ) from error
    finally:
        net.train(before)
    return made.shape[1]


def _build_dino_head(width: int, outputs: int) -> DINOProjectionHead:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of torch, on how lightly normalises it
        return DINOProjectionHead(width, width, min(256, width), outputs, freeze_last_layer=1)


def _refuse_fixed_size(net: nn.Module, size: int, width: int) -> None:
    try:
        assert compute_embedding_width(net, size) == width
    except (ConfigError, AssertionError) as error:
        raise ConfigError(
            f"method=dino: this network takes no small views, of {size} pixels, beside the large ones.",
            "Train it without: method.local_views=0; or choose a data.image_size whose half it takes.",
        ) from error
