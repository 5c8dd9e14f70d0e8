"""CLIP's ResNets: images -> features, in the shape that training expects of a ViT, as one block.

A ResNet of CLIP (Radford et al. 2021) has three convolutions at its start, average pooling before each stride, and at its end one
attention whose query is the mean of all places. Names are open_clip's. Its BatchNorms always use the statistics that they were
loaded with, also where their scales and shifts train: what a batch holds changes no image's feature.

Shape legend: B images, N places and their mean, C channels, E feature width, H heads, K head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4


class FrozenStatistics(nn.Module):
    """BatchNorm with the mean and variance that it was loaded with."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut; a stride is an average pooling before the last."""

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = FrozenStatistics(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = FrozenStatistics(planes)
        self.conv3 = nn.Conv2d(planes, EXPANSION * planes, 1, bias=False)
        self.bn3 = FrozenStatistics(EXPANSION * planes)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or channels != EXPANSION * planes:
            layer = nn.Conv2d(channels, EXPANSION * planes, 1, bias=False)
            self.downsample = nn.ModuleDict({"0": layer, "1": FrozenStatistics(EXPANSION * planes)})

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample["1"](self.downsample["0"](self.pool(x)))
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        return torch.relu(self.bn3(self.conv3(x)) + shortcut)


class AttentionPool2d(nn.Module):
    """(B, C, h, w) -> (B, E): one attention over all places, asked by their mean, and CLIP's projection."""

    def __init__(self, grid: int, channels: int, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(grid**2 + 1, channels))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        x_BNC = x.flatten(2).transpose(1, 2)
        x_BNC = torch.cat([x_BNC.mean(1, keepdim=True), x_BNC], 1) + self.positional_embedding.to(x_BNC.dtype)
        q_BH1K, k_BHNK, v_BHNK = (
            layer(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, part in ((self.q_proj, x_BNC[:, :1]), (self.k_proj, x_BNC), (self.v_proj, x_BNC))
        )
        return self.c_proj(F.scaled_dot_product_attention(q_BH1K, k_BHNK, v_BHNK).transpose(1, 2).flatten(1))


class Trunk(nn.Module):
    """All of a ResNet: (B, 3, R, R) -> (B, E)."""

    def __init__(self, stages: Sequence[int], stem: int, grid: int, width: int, heads: int):
        super().__init__()
        for number, (channels, planes) in enumerate(((3, stem // 2), (stem // 2, stem // 2), (stem // 2, stem)), start=1):
            setattr(self, f"conv{number}", nn.Conv2d(channels, planes, 3, 2 if number == 1 else 1, 1, bias=False))
            setattr(self, f"bn{number}", FrozenStatistics(planes))
        channels = stem
        for number, blocks in enumerate(stages):
            planes, layer = stem << number, []
            for index in range(blocks):
                layer.append(Bottleneck(channels, planes, 2 if number and not index else 1))
                channels = EXPANSION * planes
            setattr(self, f"layer{number + 1}", nn.Sequential(*layer))
        self.num_stages = len(stages)
        self.attnpool = AttentionPool2d(grid, channels, heads, width)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for number in (1, 2, 3):
            x = torch.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        x = F.avg_pool2d(x, 2)
        for number in range(self.num_stages):
            x = getattr(self, f"layer{number + 1}")(x)
        return self.attnpool(x)


class ResNet(nn.Module):
    """Images (B, 3, R, R) -> features (B, E), in CLIP's space of texts. Its one block is the whole network: methods that train a
    block's own parameters (``full``, ``bias``, ``bn``) train all of it, as in LIFT. ``tokens`` tells how large an image is to a
    CPU."""

    patch, network = 32, "resnet"

    def __init__(self, *, stages: Sequence[int], stem: int, width: int, heads: int, resolution: int):
        super().__init__()
        self.layers, self.width, self.resolution, self.tokens = 1, width, resolution, (resolution // 16) ** 2
        self.blocks = nn.ModuleList([Trunk(stages, stem, resolution // self.patch, width, heads)])

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks[0](images)

    def prefix(self, images: Tensor, depth: int = 0) -> Tensor:
        """Features (B, E) with the one block, else the images themselves."""
        return self(images) if depth else images

    def rest(self, x: Tensor, depth: int = 0) -> Tensor:
        """Features (B, E) from what ``prefix`` gave at the same ``depth``."""
        return x if depth else self(x)
