"""Scaled dot-product attention from the output of a fused projection, the fastest way that the device has.

Shape legend: B images, N tokens, H heads, K head width, M tokens whose output is read.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pel_core.models import activation_checkpointing as activation_checkpointing


def attend(qkv_BNX: Tensor, heads: int, read: int | None = None) -> Tensor:
    """Softmax attention: queries, keys and values side by side, (B, N, 3 H K) -> (B, M, H K).

    Args:
        read: M, the first tokens whose output is computed; all when None.
    """
    qkv_BN3HK = qkv_BNX.unflatten(-1, (3, heads, -1))
    if read is None and activation_checkpointing.should_checkpoint(qkv_BNX):
        if torch.is_autocast_enabled("cpu"):  # which does not look into a Function
            qkv_BN3HK = qkv_BN3HK.to(torch.get_autocast_dtype("cpu"))
        return ImageByImage.apply(qkv_BN3HK).flatten(2)
    q_BHNK, k_BHNK, v_BHNK = qkv_BN3HK.permute(2, 0, 3, 1, 4)
    q_BHMK = q_BHNK[:, :, :read]
    # A CPU's fused kernel has a slow backward pass.
    function = plain if qkv_BNX.device.type == "cpu" else F.scaled_dot_product_attention
    return function(q_BHMK, k_BHNK, v_BHNK).transpose(1, 2).flatten(2)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as it is written, of queries (..., M, K), keys and values (..., N, K)."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class ImageByImage(torch.autograd.Function):
    """Attention for CPUs: the maps of one image stay in the cache, vectors are read and written where the projections have them,
    and the backward pass computes the maps again, which would take as much memory as queries, keys and values together.

    Bit for bit what autograd makes of ``plain`` where MKL multiplies.
    """

    @staticmethod
    def forward(ctx: Any, qkv_BN3HK: Tensor) -> Tensor:
        """(B, N, H, K)."""
        ctx.save_for_backward(qkv_BN3HK)
        out_BNHK = torch.empty_like(qkv_BN3HK[:, :, 0], memory_format=torch.contiguous_format)
        room = _room(qkv_BN3HK)
        for q, k, v, out in _images(*qkv_BN3HK.unbind(2), out_BNHK):
            out.copy_(_weights(q, k, room) @ v)
        return out_BNHK

    @staticmethod
    def backward(ctx: Any, slope_BNHK: Tensor) -> Tensor:
        """The gradient at ``qkv_BN3HK``."""
        (qkv_BN3HK,) = ctx.saved_tensors
        found_BN3HK = torch.empty_like(qkv_BN3HK, memory_format=torch.contiguous_format)
        room, more_room = _room(qkv_BN3HK), _room(qkv_BN3HK)
        for q, k, v, slope, dq, dk, dv in _images(*qkv_BN3HK.unbind(2), slope_BNHK, *found_BN3HK.unbind(2)):
            weights = _weights(q, k, room)
            dv.copy_(weights.mT @ slope)
            scores = torch.bmm(slope, v.mT, out=more_room)
            torch.ops.aten._softmax_backward_data.out(scores, weights, -1, weights.dtype, grad_input=scores)
            scores *= q.shape[-1] ** -0.5
            dq.copy_(scores @ k)
            dk.copy_(scores.mT @ q)
        return found_BN3HK


def _room(qkv_BN3HK: Tensor) -> Tensor:
    """For one image's maps, used again for the next: fresh memory would cost as much as what is computed in it."""
    _, tokens, _, heads, _ = qkv_BN3HK.shape
    return qkv_BN3HK.new_empty(heads, tokens, tokens)


def _weights(q_HNK: Tensor, k_HNK: Tensor, room_HNN: Tensor) -> Tensor:
    scores = torch.bmm(q_HNK, k_HNK.mT, out=room_HNN)
    scores *= q_HNK.shape[-1] ** -0.5
    return torch.softmax(scores, -1, out=scores)


def _images(*tensors_BNHK: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views (H, N, K) of each, image by image."""
    return zip(*(x.transpose(1, 2) for x in tensors_BNHK), strict=True)
