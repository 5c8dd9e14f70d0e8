"""CLIP's text tower as modules of ours, for heads that train through it (`text_heads`), and its file beside a data set's texts.

Blocks are the ViT's with a causal mask, so that methods act on them by the same sites. The file `{data}.tower.safetensors` holds
the tower, the tokens of the class names, and of the token embeddings those that they use: whoever trains needs no open_clip.

Shape legend: C classes, L tokens, W width, E projected, V tokens of the vocabulary in use.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.seeds import derive, torch_generator
from pel_core.models.state_names import OPEN_CLIP_NAMES, State
from pel_core.models.text_heads import PREFIX
from pel_core.models.text_source import TextSource
from pel_core.models.vit import Attention, Block, FeedForward
from pel_core.models.vit_parts import QuickGELU

PER_CLASS = ("text.features", "text.tokens")  # of a file of texts: what has a row for each class
WORDS = "a photo of a"
NAMES = (
    (r"token_embedding\.weight", "embedding"),
    (r"ln_final\.(.*)", r"norm.\1"),
    (r"text_projection", "projection"),
    *((pattern, name) for pattern, name in OPEN_CLIP_NAMES if pattern.startswith(("transformer", "positional"))),
)


class CausalAttention(Attention):
    """The ViT's attention, each token looking at itself and what is before it."""

    def forward(self, x_CLW: Tensor, read: int | None = None) -> Tensor:
        """The branch's output for all tokens; ``read`` is the ViT's and stays None."""
        qkv_CL3HK = self.qkv(self.norm(x_CLW)).unflatten(-1, (3, self.heads, -1))
        q_CHLK, k_CHLK, v_CHLK = qkv_CL3HK.permute(2, 0, 3, 1, 4)
        mixed_CHLK = F.scaled_dot_product_attention(q_CHLK, k_CHLK, v_CHLK, is_causal=True)
        return self.proj(mixed_CHLK.transpose(1, 2).flatten(2))


class TextTower(nn.Module):
    """Token embeddings (C, L, W) -> text features (C, E), read at one token of each text. ``tokens``, ``patch`` and ``layers``
    are what methods ask of a tower."""

    patch = 1

    def __init__(
        self, layers: int, width: int, heads: int, hidden: int, tokens: int, vocabulary: int, embed: int, quick_gelu: bool
    ):
        super().__init__()
        self.layers, self.width, self.tokens = layers, width, tokens
        act = QuickGELU() if quick_gelu else nn.GELU()
        self.embedding = nn.Parameter(torch.zeros(vocabulary, width))
        self.pos = nn.Parameter(torch.zeros(tokens, width))
        pairs = [(CausalAttention(width, heads, 1e-5), FeedForward(width, hidden, act, 1e-5)) for _ in range(layers)]
        self.blocks = nn.ModuleList(Block(*pair) for pair in pairs)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.zeros(width, embed))

    def forward(self, x_CLW: Tensor, last_C: Tensor) -> Tensor:
        """Features at token ``last_C`` of each text; what comes after it is not looked at."""
        x_CLW = x_CLW + self.pos[: x_CLW.shape[1]]
        for block in self.blocks:
            x_CLW = block(x_CLW)
        return self.norm(x_CLW[torch.arange(len(x_CLW), device=x_CLW.device), last_C]) @ self.projection


def load_tower(text: Mapping[str, Tensor]) -> TextTower:
    """The tower of a file of texts."""
    state = {name.removeprefix(PREFIX): value for name, value in text.items() if name.startswith(PREFIX)}
    (vocabulary, width), (tokens, _), embed = state["embedding"].shape, state["pos"].shape, state["projection"].shape[1]
    layers, hidden = _layers(state), len(state["blocks.0.ffn.fc1.bias"])
    sizes = layers, width, int(text["text.heads"]), hidden, tokens, vocabulary, embed
    tower = TextTower(*sizes, quick_gelu=bool(text["text.quick_gelu"]))
    tower.load_state_dict({name: value.clone() for name, value in state.items()})
    return tower.eval()


def digest(made: Mapping[str, Tensor]) -> str:
    """SHA-256 of a file's tower and tokens."""
    total = hashlib.sha256()
    for name in sorted(made):
        total.update(f"{name} {tuple(made[name].shape)}\n".encode() + made[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def _layers(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))


@torch.inference_mode()
def tower_tensors(source: TextSource) -> State:
    """What the file of a backbone's text tower holds for the classes of ``source``.

    ``text.tokens`` (C, L) are start, class name, full stop, end, padding; ``text.words`` those of `WORDS`; ``text.features``
    (C, E) the unit features of "a photo of a NAME.", as of the prompt ``default``.

    Raises:
        PelError: a text tower of another kind, classes that it cannot tell apart, or other weights.
    """
    from pel_core.models.prompts import spoken

    spoken_names, tokenizer = spoken(source.class_names), source.tokenizer
    texts = [[f"{word}."] for word in spoken_names]
    source.check(texts)
    if tokenizer is None:
        tokens, words, state, heads = _random(spoken_names)
    else:
        tokens, words = tokenizer([text for own in texts for text in own]), tokenizer([WORDS])[0]
        words = words[1 : int(words.argmax())]
        state, heads = _of_open_clip(source.name, source.model())
    used, index = torch.cat([tokens.flatten(), words]).unique(return_inverse=True)
    state["embedding"] = state["embedding"][used]
    tokens, words = index[: tokens.numel()].view_as(tokens), index[tokens.numel() :]
    made = {f"{PREFIX}{key}": value.contiguous() for key, value in state.items()}
    made |= {"text.tokens": tokens, "text.words": words, "text.heads": torch.tensor(heads)}
    made["text.quick_gelu"] = torch.tensor(source.entry.quick_gelu)
    tower = load_tower(made)
    parts = trimmed(tokens).split(256)
    features = torch.cat([tower(*insert(tower.embedding[words], tower.embedding, part)) for part in parts])
    return made | {"text.features": F.normalize(features, dim=-1)}


def trimmed(tokens_CL: Tensor) -> Tensor:
    """Tokens without what follows the longest text's end: a causal tower does not look at it."""
    return tokens_CL[:, : int(tokens_CL.argmax(1).max()) + 1].contiguous()


def insert(context_MW: Tensor, embedding_VW: Tensor, tokens_CL: Tensor) -> tuple[Tensor, Tensor]:
    """Embedded texts with a context behind the start token, (C, L + M, W), and where each one ends (C,): the end has the largest
    number."""
    end_C, own_CLW = tokens_CL.argmax(1), embedding_VW[tokens_CL]
    context_CMW = context_MW.expand(len(tokens_CL), -1, -1)
    return torch.cat([own_CLW[:, :1], context_CMW, own_CLW[:, 1:]], 1), end_C + len(context_MW)


def _of_open_clip(name: str, model: Any) -> tuple[State, int]:
    """The tower's state dict by our names, and its heads.

    Raises:
        PelError: it is of another kind.
    """
    causal = getattr(model, "attn_mask", None) is not None and getattr(model, "text_pool_type", "") == "argmax"
    if not causal or not isinstance(model.text_projection, nn.Parameter):
        raise PelError(
            f"the text tower of {name} is not CLIP's (causal, read at its end token, projected): it cannot be trained here"
        )
    state: State = {}
    for key, value in model.state_dict().items():
        for pattern, new in NAMES:
            if re.fullmatch(pattern, key):
                state[re.sub(pattern, new, key)] = value.detach().float().clone()
    return state, model.transformer.resblocks[0].attn.num_heads


def _random(names: Sequence[str]) -> tuple[Tensor, Tensor, State, int]:
    """Tokens, context words, state and heads of the toy backbone's tower, for tests: a word is a token."""
    split = [re.findall(r"\w+|\.", f"{name}.") for name in names]
    vocabulary = sorted({word for words in split for word in words} | {*WORDS.split()})
    number = {word: 2 + index for index, word in enumerate(vocabulary)}
    end, longest = 2 + len(vocabulary), max(map(len, split))
    rows = [[1, *(number[word] for word in words), end, *[0] * (longest - len(words))] for words in split]
    tower = TextTower(2, 24, 2, 48, 40, end + 1, 16, quick_gelu=True)
    generator, state = torch_generator(0, "backbone", "text tower"), tower.state_dict()
    for key, value in state.items():
        if key == "embedding":
            continue
        norm = "norm" in key
        value.normal_(
            1.0 if norm and key.endswith("weight") else 0.0, 0.02 if norm else value.shape[-1] ** -0.5, generator=generator
        )
    for word, index in ({"": 0, "<start>": 1, "<end>": end} | number).items():  # whatever other words there are
        state["embedding"][index].normal_(0, 0.2, generator=torch.Generator().manual_seed(derive(0, "token", word)))
    return torch.tensor(rows), torch.tensor([number[word] for word in WORDS.split()]), state, 2
