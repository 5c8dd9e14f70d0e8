"""A second ViT, written plainly from the papers: every method as what it makes of weights, biases or tokens, block by block.

Nothing of the package is used. Learnt tensors come by their stored names. Shape legend: B images, N tokens, D width, H heads.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PARTS = {"q": ("attn.qkv", 0), "k": ("attn.qkv", 1), "v": ("attn.qkv", 2)}
PARTS |= {"o": ("attn.proj", 0), "fc1": ("ffn.fc1", 0), "fc2": ("ffn.fc2", 0)}


class PlainViT:
    """A frozen ViT; subclasses are methods. Every token is computed in every block, keys and queries apart.

    Args:
        frozen: the backbone's tensors by name.
        learnt: what trains by stored name; of ``blocks.*`` names it takes the frozen ones' place.
        blocks: those that the method acts on.
    """

    name = "none"
    matrices = ()

    def __init__(self, frozen: dict, learnt: dict, *, layers: int, heads: int, patch: int, blocks: range, knobs: dict):
        self.frozen, self.learnt, self.layers, self.heads, self.patch = frozen, learnt, layers, heads, patch
        self.blocks, self.knobs = blocks, knobs

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, D)."""
        x = F.conv2d(images, self.frozen["embed.weight"], stride=self.patch).flatten(2).transpose(1, 2)
        x = torch.cat([self.frozen["cls"].expand(len(x), 1, -1), x], 1) + self.frozen["pos"]
        x = self.normed(x, "norm_pre")
        self.tokens = x.shape[1]
        for index in range(self.layers):
            x = self.block(index, x)
        return self.normed(x, "norm")[:, 0]

    def get(self, name: str) -> Tensor:
        return self.learnt.get(name, self.frozen.get(name))

    def own(self, index: int, name: str) -> Tensor:
        """A tensor of the method in a block."""
        return self.learnt[f"{self.name}.{index}.{name}"]

    def normed(self, x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.get(f"{name}.weight") + self.get(f"{name}.bias")

    def bare(self, index: int, part: str) -> tuple[Tensor, Tensor]:
        """Weight (out, in) and bias of one matrix as the backbone has it."""
        site, third = PARTS[part]
        weight, bias = self.get(f"blocks.{index}.{site}.weight"), self.get(f"blocks.{index}.{site}.bias")
        count = 3 if site == "attn.qkv" else 1
        return weight.chunk(count)[third], bias.chunk(count)[third]

    def where(self, part: str) -> tuple[str, int]:
        """The site of a matrix, and which of those that the method updates there it is."""
        site, _ = PARTS[part]
        return site, [name for name in self.chosen() if PARTS[name][0] == site].index(part)

    def chosen(self) -> list[str]:
        return self.knobs["matrices"].split("+") if "matrices" in self.knobs else list(self.matrices)

    def weights(self, index: int, part: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of one matrix with the method's update in it."""
        weight, bias = self.bare(index, part)
        if index in self.blocks and part in self.chosen():
            return self.updated(index, part, weight, bias)
        return weight, bias

    def updated(self, index: int, part: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight, bias

    def apply(self, index: int, part: str, x: Tensor) -> Tensor:
        weight, bias = self.weights(index, part)
        return x @ weight.T + bias

    def temperature(self, index: int) -> Tensor | float:
        return 1.0

    def attention(self, index: int, x: Tensor) -> Tensor:
        """The branch's output from the block's input (B, N, D)."""
        x = self.normed(x, f"blocks.{index}.attn.norm")
        split = [self.apply(index, part, x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in "qkv"]
        query, key, value = split
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 / self.temperature(index)
        mixed = (scores.exp() / scores.exp().sum(-1, keepdim=True)) @ value
        return self.apply(index, "o", mixed.transpose(1, 2).flatten(2))

    def mlp(self, index: int, x: Tensor) -> Tensor:
        hidden = self.apply(index, "fc1", self.normed(x, f"blocks.{index}.ffn.norm"))
        return self.apply(index, "fc2", hidden / (1 + (-1.702 * hidden).exp()))

    def block(self, index: int, x: Tensor) -> Tensor:
        x = x + self.attention(index, x)
        return x + self.mlp(index, x)


class LoRA(PlainViT):
    """W + alpha / r * (A B)^T in the weights (Hu et al. 2021)."""

    name = "lora"

    def change(self, index: int, part: str) -> Tensor:
        site, number = self.where(part)
        down, up = self.own(index, f"{site}.down.{number}"), self.own(index, f"{site}.up.{number}")
        return self.knobs["alpha"] * (down @ up).T / down.shape[1]

    def updated(self, index, part, weight, bias):
        return weight + self.change(index, part), bias


class DoRA(LoRA):
    """m V / |V|, row by row; |V| is no function of what is learnt where its gradient is cut off (Liu et al. 2024)."""

    name = "dora"

    def updated(self, index, part, weight, bias):
        site, number = self.where(part)
        direction = weight + self.change(index, part)
        length = direction.pow(2).sum(1).sqrt()
        length = length if self.knobs["full_gradient"] else length.detach()
        return direction * (self.own(index, f"{site}.magnitude.{number}") / length)[:, None], bias


class GatedPrompts(PlainViT):
    """P^l = g P_out + (1 - g) P_in behind each block (Yoo et al. 2023)."""

    name = "vpt-gated"

    def temperature(self, index):
        return self.own(index, "attn.qkv.temperature") if self.knobs["shaping"] and index in self.blocks else 1.0

    def block(self, index, x):
        if index == self.blocks.start:
            x = torch.cat([x, self.own(index, "prompt").expand(len(x), -1, -1)], 1)
        out = super().block(index, x)
        if index in self.blocks and index < self.layers - 1:
            gate = 1 / (1 + (-self.own(index, "logit")).exp())
            before, after = x[:, self.tokens :], out[:, self.tokens :]
            out = torch.cat([out[:, : self.tokens], before + gate * (after - before)], 1)
        return out


class RepAdapter(PlainViT):
    """Folded: W (I + s B A) x + W s (B a + b) + bias, with B written out block-diagonally (Luo et al. 2023)."""

    name = "repadapter"

    @property
    def matrices(self):
        return ("q", "k", "v", "fc1") if self.knobs["sites"] == "both" else ("q", "k", "v")

    def updated(self, index, part, weight, bias):
        norm = "ffn.norm" if part == "fc1" else "attn.norm"
        down, start = self.own(index, f"{norm}.down.weight"), self.own(index, f"{norm}.down.bias")
        up = torch.block_diag(*self.own(index, f"{norm}.up.weight").chunk(self.knobs["groups"]))
        scale = self.knobs["scale"]
        shift = scale * (up @ start + self.own(index, f"{norm}.up.bias"))
        return weight @ (torch.eye(len(up), dtype=up.dtype) + scale * up @ down), weight @ shift + bias


class FacT(PlainViT):
    """Sums over the factors' indices, D x D matrix by matrix (Jie and Deng 2023)."""

    @property
    def matrices(self):
        return ("q", "k", "v", "o") if self.knobs["sites"] == "attn" else ("q", "k", "v", "o", "fc1", "fc2")

    def factor(self, index: int, site: str, row: int, column: int) -> Tensor:
        """S (r, r) of the matrix from the ``row``-th D inputs of a layer to the ``column``-th D outputs."""
        raise NotImplementedError

    def updated(self, index, part, weight, bias):
        site, third = PARTS[part]
        u, v = self.learnt[f"{self.name}.shared.u"], self.learnt[f"{self.name}.shared.v"]
        columns = [third] if site == "attn.qkv" else range(weight.shape[0] // len(u))
        blocks = [
            torch.cat(
                [
                    torch.einsum("ia,ab,bo->oi", u, self.factor(index, site, row, column), v)
                    for row in range(weight.shape[1] // len(u))
                ],
                1,
            )
            for column in columns
        ]
        return weight + self.knobs["scale"] * torch.cat(blocks), bias


class TensorTrain(FacT):
    name = "fact-tt"

    def factor(self, index, site, row, column):
        rank = self.learnt["fact-tt.shared.u"].shape[1]
        return self.own(index, f"{site}.s")[row * rank : (row + 1) * rank, column * rank : (column + 1) * rank]


class Tucker(FacT):
    name = "fact-tk"

    def factor(self, index, site, row, column):
        columns = self.own(index, f"{site}.p")
        outputs = 3 if site == "attn.qkv" else 4 if site == "ffn.fc1" else 1
        return torch.einsum("abc,c->ab", self.learnt["fact-tk.shared.c"], columns[:, row * outputs + column])


class VeRA(PlainViT):
    """W + diag(b) B^T diag(d) A^T; ``frozen`` has the two random matrices by their shapes (Kopiczko et al. 2024)."""

    name = "vera"

    def updated(self, index, part, weight, bias):
        site, number = self.where(part)
        inner, outer = self.own(index, f"{site}.inner.{number}"), self.own(index, f"{site}.outer.{number}")
        a, b = self.frozen[f"a{weight.shape[1]}x{len(inner)}"], self.frozen[f"b{len(inner)}x{len(weight)}"]
        return weight + torch.diag(outer) @ b.T @ torch.diag(inner) @ a.T, bias


class Convpass(PlainViT):
    """The convolution as a sum over neighbours, written for each patch (Jie and Deng 2022)."""

    name = "convpass"

    def bypass(self, index: int, branch: str, x: Tensor) -> Tensor:
        def of(name: str) -> Tensor:
            return self.own(index, f"{branch}.{name}")

        low = self.normed(x, f"blocks.{index}.{branch}.norm") @ of("down.weight").T + of("down.bias")
        low, side, out = low / (1 + (-1.702 * low).exp()), round((self.tokens - 1) ** 0.5), []
        for token in range(low.shape[1]):
            total = of("conv.bias") + low[:, token] @ of("conv.weight")[:, :, 1, 1].T
            row, column = divmod(token - 1, side)
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    inside = 0 <= row + down < side and 0 <= column + right < side and (down, right) != (0, 0)
                    if 1 <= token < self.tokens and inside:
                        neighbour = low[:, 1 + (row + down) * side + column + right]
                        total = total + neighbour @ of("conv.weight")[:, :, 1 + down, 1 + right].T
            out.append(total)
        low = torch.stack(out, 1)
        return self.knobs["scale"] * (low / (1 + (-1.702 * low).exp()) @ of("up.weight").T + of("up.bias"))

    def attention(self, index, x):
        return super().attention(index, x) + (self.bypass(index, "attn", x) if index in self.blocks else 0)

    def mlp(self, index, x):
        there = index in self.blocks and self.knobs["sites"] == "both"
        return super().mlp(index, x) + (self.bypass(index, "ffn", x) if there else 0)


class DiffFit(PlainViT):
    """x + gamma * branch (Xie et al. 2023)."""

    name = "difffit"

    def attention(self, index, x):
        return super().attention(index, x) * (self.own(index, "attn.gamma") if index in self.blocks else 1)

    def mlp(self, index, x):
        return super().mlp(index, x) * (self.own(index, "ffn.gamma") if index in self.blocks else 1)


class BitFit(PlainViT):
    """The chosen biases (Ben Zaken et al. 2022)."""

    name = "bitfit"

    def updated(self, index, part, weight, bias):
        site, number = self.where(part)
        return weight, bias + self.own(index, f"{site}.shift").split(len(bias))[number]


PLAIN = {each.name: each for each in (LoRA, DoRA, GatedPrompts, RepAdapter, TensorTrain, Tucker, VeRA, Convpass, DiffFit, BitFit)}
