"""Everything that is done on a CPU alone, so that the ViT, the step and the loop are written once and ask here by name.

| what | when | why; docs/benchmarks, "What helped on a CPU", has the numbers |
|---|---|---|
| `attention` | every attention on a CPU | the fused kernel's backward pass takes half of a small ViT's step |
| its `ImageByImage` | all tokens are read, `MANY_TOKENS` or more | a fifth of attention's time, a fifth of a ViT-B's memory |
| `checkpointed` | inside a bottleneck, `MANY_TOKENS` or more | a sixth of a ViT-B's memory, in no measurable time |
| `quick_gelu_mlp` | frozen or tuned MLP with plain Linear layers | a tenth of a small ViT's step |
| `images_per_micro_batch` | training, losses that are means over images | a sixth of a ViT-B's time; fits a laptop's memory |
| `crops_per_pass` | evaluation | up to half as fast again |
| `keep_freed_memory` | once a process | a tenth of a small ViT's step |

All but the micro-batches and the folded MLP (rounding) keep the bits of what they replace where MKL multiplies.
The sizes were found on two cores; with many cores larger ones may be better.

Shape legend: B images, N tokens, M tokens whose output is read, H heads, K head width, D width.
"""

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

MANY_TOKENS = 64  # below, an image's activations are small and computing them twice is not
# That go through at once in training: 16 images of a ViT-B/16. More leave the caches and fill a laptop's memory.
TRAIN_TOKENS = 3200
EVAL_TOKENS = 1600  # that go through at once in an evaluation
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@cache
def model() -> str:
    """The CPU's model in words, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def images_per_micro_batch(tokens: int) -> int:
    """The images of so many tokens each that go through forward and backward at once."""
    return max(1, TRAIN_TOKENS // tokens)


def crops_per_pass(tokens: int) -> int:
    """The crops of so many tokens each that go through at once in an evaluation."""
    return max(1, EVAL_TOKENS // tokens)


def keep_freed_memory() -> None:
    """Let the C library (glibc; others have no such knob) keep what tensors free for the next ones: by default it gives pages
    back to the system and gets them anew, zeroed, many times a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the most that glibc accepts; larger ones still come and go
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def recomputes(x: Tensor) -> bool:
    """Whether what is made of ``x`` (B, N, ...) is computed again in the backward pass, so that it need not be kept.

    Only on CPUs, where a laptop's memory is soon full and there is no halving a batch once the system has killed the process. Not
    where the network is being traced, into a graph that says what is computed and not how.
    """
    return x.device.type == "cpu" and x.dim() > 2 and x.shape[1] >= MANY_TOKENS and not torch.compiler.is_compiling()


def checkpointed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, of whose inside nothing is kept for the backward pass where that `recomputes`; the same bits."""
    if recomputes(x) and torch.is_grad_enabled():
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
    return function(x)


def quick_gelu_mlp(x_BND: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """fc2(quick_gelu(fc1(x))) with the factors 1.702 and 1 / 1.702 in the matrix products."""
    flat = x_BND.flatten(0, -2)
    hidden = F.silu(torch.addmm(fc1.bias, flat, fc1.weight.T, beta=1.702, alpha=1.702))
    return torch.add(fc2.bias, hidden @ fc2.weight.T, alpha=1 / 1.702).unflatten(0, x_BND.shape[:-1])


def attention(qkv_BN3HK: Tensor, read: int | None = None) -> Tensor:
    """Softmax attention (B, M, H, K) of queries, keys and values side by side; M is the first ``read`` tokens, or all."""
    if read is None and recomputes(qkv_BN3HK):
        if torch.is_autocast_enabled("cpu"):  # which does not look into a Function
            qkv_BN3HK = qkv_BN3HK.to(torch.get_autocast_dtype("cpu"))
        return ImageByImage.apply(qkv_BN3HK)
    q_BHNK, k_BHNK, v_BHNK = qkv_BN3HK.permute(2, 0, 3, 1, 4)
    return plain_attention(q_BHNK[:, :, :read], k_BHNK, v_BHNK).transpose(1, 2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as it is written, of queries (..., M, K), keys and values (..., N, K)."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class ImageByImage(torch.autograd.Function):
    """Attention whose maps of one image stay in the cache; vectors are read and written where the projections have them, and the
    backward pass computes the maps again, which would take as much memory as queries, keys and values together.

    Bit for bit what autograd makes of `plain_attention` where MKL multiplies.
    """

    @staticmethod
    def forward(ctx: Any, qkv_BN3HK: Tensor) -> Tensor:
        """(B, N, H, K)."""
        ctx.save_for_backward(qkv_BN3HK)
        out_BNHK = torch.empty_like(qkv_BN3HK[:, :, 0], memory_format=torch.contiguous_format)
        scratch_HNN = _empty_maps(qkv_BN3HK)
        for q, k, v, out in _images(*qkv_BN3HK.unbind(2), out_BNHK):
            out.copy_(_weights(q, k, scratch_HNN) @ v)
        return out_BNHK

    @staticmethod
    def backward(ctx: Any, grad_out_BNHK: Tensor) -> Tensor:
        """The gradient at ``qkv_BN3HK``."""
        (qkv_BN3HK,) = ctx.saved_tensors
        grad_qkv_BN3HK = torch.empty_like(qkv_BN3HK, memory_format=torch.contiguous_format)
        weights_HNN, grad_HNN = _empty_maps(qkv_BN3HK), _empty_maps(qkv_BN3HK)
        for q, k, v, grad_out, grad_q, grad_k, grad_v in _images(*qkv_BN3HK.unbind(2), grad_out_BNHK, *grad_qkv_BN3HK.unbind(2)):
            weights = _weights(q, k, weights_HNN)
            grad_v.copy_(weights.mT @ grad_out)
            grad_scores = torch.bmm(grad_out, v.mT, out=grad_HNN)
            torch.ops.aten._softmax_backward_data.out(grad_scores, weights, -1, weights.dtype, grad_input=grad_scores)
            grad_scores *= q.shape[-1] ** -0.5
            grad_q.copy_(grad_scores @ k)
            grad_k.copy_(grad_scores.mT @ q)
        return grad_qkv_BN3HK


def _empty_maps(qkv_BN3HK: Tensor) -> Tensor:
    """(H, N, N) for one image's maps, used again for the next: fresh memory would cost as much as what is computed in it."""
    _, tokens, _, heads, _ = qkv_BN3HK.shape
    return qkv_BN3HK.new_empty(heads, tokens, tokens)


def _weights(q_HNK: Tensor, k_HNK: Tensor, scratch_HNN: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K)), computed in ``scratch_HNN``."""
    scores = torch.bmm(q_HNK, k_HNK.mT, out=scratch_HNN)
    scores *= q_HNK.shape[-1] ** -0.5
    return torch.softmax(scores, -1, out=scores)


def _images(*tensors_BNHK: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views (H, N, K) of each, image by image."""
    return zip(*(x.transpose(1, 2) for x in tensors_BNHK), strict=True)
