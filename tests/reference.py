"""A second, plain implementation of FIDELITY.md sections 3 to 6, written only to make golden folders of any configuration.

It follows the text line by line on OpenAI's or timm's own parameter names and shares no code with ``pel_core``.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

RENAMES = (
    ("attn.qkv.", "attn.in_proj_"), ("attn.proj.", "attn.out_proj."), ("norm1.", "ln_1."), ("norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."),
)  # fmt: skip
LINEARS = {"attn_in": "attn.in_proj_", "attn_out": "attn.out_proj.", "mlp_in": "mlp.c_fc.", "mlp_out": "mlp.c_proj."}
BIASES = ("attn.in_proj_bias", "attn.out_proj.bias", "ln_1.bias", "mlp.c_fc.bias", "mlp.c_proj.bias", "ln_2.bias")


class Tower:
    """A random image tower; ``block(i, name)`` is the key of a block's parameter, by its OpenAI name."""

    def __init__(self, family, layers, width, generator, patch=4, pixels=8, embed=16):
        self.family, self.layers, self.width, self.patch, self.pixels = family, layers, width, patch, pixels
        self.tokens = 1 + (pixels // patch) ** 2
        self.eps = 1e-5 if family == "clip" else 1e-6
        shapes = {
            "ln_1.weight": (width,), "ln_1.bias": (width,), "attn.in_proj_weight": (3 * width, width),
            "attn.in_proj_bias": (3 * width,), "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
            "ln_2.weight": (width,), "ln_2.bias": (width,), "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
        }  # fmt: skip
        self.names = list(shapes)
        clip = {
            "visual.class_embedding": (width,), "visual.positional_embedding": (self.tokens, width),
            "visual.proj": (width, embed),
            "visual.conv1.weight": (width, 3, patch, patch), "visual.ln_pre.weight": (width,), "visual.ln_pre.bias": (width,),
            "visual.ln_post.weight": (width,), "visual.ln_post.bias": (width,), "logit_scale": (),
        }  # fmt: skip
        timm = {
            "cls_token": (1, 1, width), "pos_embed": (1, self.tokens, width), "patch_embed.proj.weight": (width, 3, patch, patch),
            "patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
        }  # fmt: skip
        blocks = {self.block(i, name): shape for i in range(layers) for name, shape in shapes.items()}
        everything = {**(clip if family == "clip" else timm), **blocks}
        self.state = {key: self._value(key, shape, generator) for key, shape in everything.items()}

    @classmethod
    def of_clip(cls, state, layers, patch, pixels):
        """The tower of an OpenAI-format state dict."""
        width = len(state["visual.class_embedding"])
        tower = cls("clip", layers, width, torch.Generator(), patch, pixels)
        tower.state = {key: state[key] for key in tower.state}
        return tower

    def block(self, i, name):
        if self.family == "clip":
            return f"visual.transformer.resblocks.{i}.{name}"
        for timm, openai in RENAMES:
            name = name.replace(openai, timm)
        return f"blocks.{i}.{name}"

    def _value(self, key, shape, generator):
        if key == "logit_scale":
            return torch.tensor(2.0)
        value = torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        norm = key.endswith("weight") and len(shape) == 1
        return value + 1 if norm else value


def blocks_of(options, layers):
    partial = options.get("partial")
    if partial is None:
        return range(layers)
    return range(*partial) if isinstance(partial, list | tuple) else range(layers - partial, layers)


def mask_of(tower, options, classes):
    """Boolean masks (out, in + 1) of every masked matrix, and the values they select."""
    ratio = options.get("mask_ratio")
    if ratio is None:
        ratio = max(0.001, math.floor(classes / (12 * tower.layers * tower.width) / 0.001) * 0.001)
    generator = torch.Generator().manual_seed(options.get("mask_seed") or 0)
    masks = {}
    for i in blocks_of(options, tower.layers):
        for site, name in LINEARS.items():
            out, width = tower.state[tower.block(i, name + "weight")].shape
            count = out * (width + 1)
            mask = torch.zeros(count, dtype=torch.bool)
            mask[torch.randperm(count, generator=generator)[: int(ratio * count)]] = True
            masks[f"masked_linear_list.{i}.{site}"] = mask.view(out, width + 1)
    return masks


def tuner_of(tower, options, classes, generator):
    """Perturbed tuner parameters by the reference's names, and the backbone keys of those that are the backbone's own."""
    width, layers = tower.width, tower.layers
    rank = options.get("adapter_dim") or 2 ** max(0, int(math.log2(classes / (2 * layers))))

    def random(*shape, around=0.0):
        return around + 0.1 * torch.randn(*shape, generator=generator)

    tuner, shared = {}, {}
    for i in blocks_of(options, layers):
        for kind in ("adaptformer", "adapter"):
            if options.get(kind):
                where = f"{kind}_list.{i}."
                tuner |= {where + "ln.weight": random(width, around=1), where + "ln.bias": random(width)}
                tuner |= {where + "down_proj.weight": random(rank, width), where + "down_proj.bias": random(rank)}
                tuner |= {where + "up_proj.weight": random(width, rank), where + "up_proj.bias": random(width)}
                if kind == "adaptformer":
                    tuner[where + "scale"] = random(1, around=1)
        if options.get("lora"):
            for part in "qv":
                where = f"lora_list.{i}.{part}.lora_"
                tuner |= {where + "A": random(width, rank), where + "B": random(rank, width)}
        if options.get("lora_mlp"):
            tuner |= {f"lora_mlp_list.{i}.lora_A": random(width, rank)}
            tuner |= {f"lora_mlp_list.{i}.lora_B": random(rank, 4 * width)}
        sites = {"ssf_attn": {"attn_in": 3, "attn_out": 1}, "ssf_mlp": {"mlp_in": 4, "mlp_out": 1}}
        sites["ssf_ln"] = {"ln_1": 1, "ln_2": 1}
        for kind, wide in sites.items():
            for site, times in wide.items() if options.get(kind) else ():
                where = f"{kind}_list.{i}.{site}."
                tuner |= {where + "scale": random(times * width, around=1), where + "shift": random(times * width)}
        if options.get("full_tuning"):
            shared |= {f"block_tuned.{i}.{name}": tower.block(i, name) for name in tower.names}
    prompted = (0,) if options.get("vpt_shallow") else blocks_of(options, layers) if options.get("vpt_deep") else ()
    for i in prompted:
        tuner[f"vpt_list.{i}.prompt"] = random(options.get("vpt_len") or 10, width)
    if options.get("bias_tuning"):
        keys = [tower.block(i, name) for i in range(layers) for name in BIASES]
        shared |= {f"bias_tuned.{k}": key for k, key in enumerate(keys)}
    if options.get("ln_tuning"):
        norms = [tower.block(i, name) for i in range(layers) for name in ("ln_1.", "ln_2.")]
        shared |= {f"ln_tuned.{k}.{part}": key + part for k, key in enumerate(norms) for part in ("weight", "bias")}
    if options.get("mask"):
        for where, mask in mask_of(tower, options, classes).items():
            where += ".optimized_"
            tuner |= {where + "weight": random(int(mask[:, :-1].sum())), where + "bias": random(int(mask[:, -1].sum()))}
    return tuner, shared, rank


def norm(x, weight, bias, eps):
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def bottleneck(x, tuner, where):
    hidden = norm(x, tuner[where + "ln.weight"], tuner[where + "ln.bias"], 1e-5)
    hidden = F.relu(F.linear(hidden, tuner[where + "down_proj.weight"], tuner[where + "down_proj.bias"]))
    return F.linear(hidden, tuner[where + "up_proj.weight"], tuner[where + "up_proj.bias"]) * tuner.get(where + "scale", 1)


def encode(tower, state, tuner, masks, rank, images):
    """Images -> features, as section 3 says; an empty ``tuner`` is ``use_tuner=False``."""
    clip, width = tower.family == "clip", tower.width
    heads = width // 64
    patch = state["visual.conv1.weight" if clip else "patch_embed.proj.weight"]
    x = F.conv2d(images, patch, None if clip else state["patch_embed.proj.bias"], stride=tower.patch).flatten(2).mT
    cls = state["visual.class_embedding" if clip else "cls_token"].reshape(1, 1, -1).expand(len(x), 1, -1)
    x = torch.cat([cls, x], 1) + state["visual.positional_embedding" if clip else "pos_embed"].reshape(1, -1, width)
    if clip:
        x = norm(x, state["visual.ln_pre.weight"], state["visual.ln_pre.bias"], tower.eps)

    def scaled(y, where):
        return y * tuner[where + ".scale"] + tuner[where + ".shift"] if where + ".scale" in tuner else y

    def linear(y, i, site):
        weight, bias = (state[tower.block(i, LINEARS[site] + part)] for part in ("weight", "bias"))
        where = f"masked_linear_list.{i}.{site}"
        if where + ".optimized_weight" in tuner:
            weight = weight.masked_scatter(masks[where][:, :-1], tuner[where + ".optimized_weight"])
            bias = bias.masked_scatter(masks[where][:, -1], tuner[where + ".optimized_bias"])
        return F.linear(y, weight, bias)

    for i in range(tower.layers):
        if f"vpt_list.{i}.prompt" in tuner:
            prompt = tuner[f"vpt_list.{i}.prompt"].expand(len(x), -1, -1)
            x = torch.cat([x[:, : tower.tokens], prompt], 1)
        y = norm(x, state[tower.block(i, "ln_1.weight")], state[tower.block(i, "ln_1.bias")], tower.eps)
        y = scaled(y, f"ssf_ln_list.{i}.ln_1")
        q, k, v = linear(y, i, "attn_in").chunk(3, -1)
        if f"lora_list.{i}.q.lora_A" in tuner:
            q = q + y @ tuner[f"lora_list.{i}.q.lora_A"] @ tuner[f"lora_list.{i}.q.lora_B"] / rank
            v = v + y @ tuner[f"lora_list.{i}.v.lora_A"] @ tuner[f"lora_list.{i}.v.lora_B"] / rank
        q, k, v = scaled(torch.cat([q, k, v], -1), f"ssf_attn_list.{i}.attn_in").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, 64)).transpose(1, 2) for part in (q, k, v))
        y = (torch.softmax(q @ k.mT / 8, -1) @ v).transpose(1, 2).flatten(2)
        x = x + scaled(linear(y, i, "attn_out"), f"ssf_attn_list.{i}.attn_out")
        y = norm(x, state[tower.block(i, "ln_2.weight")], state[tower.block(i, "ln_2.bias")], tower.eps)
        y = scaled(y, f"ssf_ln_list.{i}.ln_2")
        hidden = linear(y, i, "mlp_in")
        if f"lora_mlp_list.{i}.lora_A" in tuner:
            hidden = hidden + y @ tuner[f"lora_mlp_list.{i}.lora_A"] @ tuner[f"lora_mlp_list.{i}.lora_B"] / rank
        hidden = scaled(hidden, f"ssf_mlp_list.{i}.mlp_in")
        hidden = hidden * torch.sigmoid(1.702 * hidden) if clip else F.gelu(hidden)
        y = scaled(linear(hidden, i, "mlp_out"), f"ssf_mlp_list.{i}.mlp_out")
        if f"adapter_list.{i}.ln.weight" in tuner:
            y = y + bottleneck(y, tuner, f"adapter_list.{i}.")
        if f"adaptformer_list.{i}.ln.weight" in tuner:
            y = y + bottleneck(x, tuner, f"adaptformer_list.{i}.")
        x = x + y
    last = "visual.ln_post." if clip else "norm."
    return norm(x[:, 0], state[last + "weight"], state[last + "bias"], tower.eps)


def classify(feature, head, classifier, scale):
    rows = F.normalize(head["head.weight"], dim=-1)
    return {
        "CosineClassifier": lambda: scale * F.normalize(feature, dim=-1) @ rows.T,
        "LinearClassifier": lambda: F.linear(feature, head["head.weight"], head.get("head.bias")),
        "L2NormedClassifier": lambda: feature @ rows.T,
        "LayerNormedClassifier": lambda: F.layer_norm(feature, feature.shape[-1:], eps=1e-12) @ rows.T,
    }[classifier]()


def write_golden(folder: Path, configs: dict, family="clip", layers=4, width=64, classes=10, seed=0, scale=25) -> Path:
    """A golden folder of one tower, one batch and several configurations (name -> options)."""
    generator = torch.Generator().manual_seed(seed)
    tower = Tower(family, layers, width, generator)
    images, labels = (
        torch.randn(6, 3, tower.pixels, tower.pixels, generator=generator),
        torch.randint(classes, (6,), generator=generator),
    )
    counts = torch.arange(classes, 0, -1) * 7
    # Stacks of everything amplify rounding more than the project's own golden configurations do.
    index = {"configs": {}, "files": {}, "tolerances": {"feature_logits": "atol 5e-5 (room for large stacks)"}}

    def save(name, arrays):
        np.savez(folder / name, **{key: np.asarray(value) for key, value in arrays.items()})
        index["files"][name] = {"arrays": {key: [list(np.shape(value)), "?"] for key, value in arrays.items()}}

    folder.mkdir(parents=True, exist_ok=True)
    save("backbone.npz", tower.state)
    save("batch.npz", {"images": images, "labels": labels, "cls_num_list": counts})
    for name, options in configs.items():
        arrays, about = configuration(tower, options, classes, scale, images, labels, counts, generator)
        save(f"cfg_{name}.npz", arrays)
        index["configs"][name] = {"file": f"cfg_{name}.npz", "options": options, "num_classes": classes, "scale": scale, **about}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def configuration(tower, options, classes, scale, images, labels, counts, generator):
    """The arrays of one configuration and its entry in the index."""
    tuner, shared, rank = tuner_of(tower, options, classes, generator)
    masks = mask_of(tower, options, classes) if options.get("mask") else {}
    state = dict(tower.state)
    for key in dict.fromkeys(shared.values()):
        state[key] = (state[key] + 0.1 * torch.randn(state[key].shape, generator=generator)).requires_grad_(True)
    classifier = options.get("classifier", "CosineClassifier")
    head = {"head.weight": torch.randn(classes, tower.width, generator=generator)}
    if classifier == "LinearClassifier":
        head["head.bias"] = torch.randn(classes, generator=generator)
    for value in [*tuner.values(), *head.values()]:
        value.requires_grad_(True)
    tuned = tuner | {name: state[key] for name, key in shared.items()}
    named = {f"tuner.{name}": value for name, value in tuned.items()} | head
    arrays = {f"param/{name}": value.detach().clone() for name, value in named.items()}
    for where, mask in masks.items():
        arrays |= {f"mask/{where}.mask_weight": np.packbits(mask[:, :-1]), f"mask/{where}.mask_bias": np.packbits(mask[:, -1])}

    def forward():
        feature = encode(tower, state, tuner, masks, rank, images)
        return feature, classify(feature, head, classifier, scale)

    def loss_of(logits):
        return F.cross_entropy(logits + torch.log(counts / counts.sum()), labels)

    feature, logits = forward()
    arrays |= {"feature": feature.detach(), "logits": logits.detach(), "loss/LA": loss_of(logits).item()}
    arrays["feature_no_tuner"] = encode(tower, state, {}, {}, rank, images).detach()
    unique = list({id(value): value for value in named.values()}.values())
    optimizer = torch.optim.SGD(unique, lr=0.01, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(forward()[1])
        loss.backward()
        if step == 0:
            arrays |= {f"grad/{name}": value.grad.clone() for name, value in named.items()}
        losses.append(loss.item())
        optimizer.step()
    arrays["train_losses"] = losses
    arrays |= {f"step3/{name}": value.detach().clone() for name, value in named.items()}
    arrays["logits_step3"] = forward()[1].detach()
    sizes = {id(value): value.numel() for value in tuned.values()}
    about = {"n_tuner_params": sum(sizes.values()), "n_head_params": sum(value.numel() for value in head.values())}
    return arrays, about | {"shared_with_backbone": shared, "classifier": classifier}
