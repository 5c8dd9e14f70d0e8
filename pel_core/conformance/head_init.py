"""Head initialisation: prompts, text features, head rows, zero-shot logits, class means, linear probe."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.conformance.golden import Arrays, Golden
from pel_core.conformance.report import Report, Unsupported, difference
from pel_core.models.class_texts import encode_text
from pel_core.models.heads import ZeroShot
from pel_core.models.inits import class_mean, linear_probe
from pel_core.models.prompts import spoken, templates
from pel_core.models.vit import ViT
from pel_core.training.classifier import text_head

PROMPTS = ("default", "classname", "ensemble")
FROM_IMAGES = {"class_mean": class_mean, "linear_probe": linear_probe}


@torch.no_grad()
def check_head_init(golden: Golden, report: Report, file: str) -> None:
    """Every group of the file: a prompt, ``zeroshot``, ``class_mean`` or ``linear_probe``."""
    arrays = golden.arrays(file)
    backbone = golden.backbone("clip" if len(golden.files("clip")) == 1 else None)
    vit, projection = golden.vit(backbone)
    model, tokenizer = text_tower(golden, backbone)
    names = [str(name) for name in arrays["classnames"]]
    for group in dict.fromkeys(match[1] for match in arrays.match(r"([^/]+)/.+")):
        with report.section(f"{file}: {group}"):
            where = f"{file}: {group}/"
            if group in PROMPTS:
                check_prompt(golden, report, where, arrays, group, names, model, tokenizer, projection["text.projection"].cpu())
            elif group == "zeroshot":
                text = encode_text(model, tokenizer, names, templates("default"))
                check_zero_shot(golden, report, where, arrays, text, vit, projection)
            elif group in FROM_IMAGES:
                check_from_images(golden, report, where, arrays, group, vit)
            else:
                raise Unsupported(f"head initialisation {group}")


def text_tower(golden: Golden, backbone: str) -> tuple[nn.Module, Any]:
    """open_clip's model of an OpenAI-format state dict, and its tokenizer."""
    import open_clip
    from open_clip.model import build_model_from_openai_state_dict

    # open_clip takes the metadata keys out of the dict it is given, and returns half precision.
    state = {name: value.cpu() for name, value in golden.state(backbone).items()}  # text is prepared on the CPU
    model = build_model_from_openai_state_dict(state, quick_gelu=True, cast_dtype=None).float().eval()
    return model, open_clip.get_tokenizer("ViT-B-32")


def check_prompt(
    golden: Golden,
    report: Report,
    where: str,
    arrays: Arrays,
    prompt: str,
    names: list[str],
    model: nn.Module,
    tokenizer: Any,
    projection: Tensor,
) -> None:
    """Token ids, text features and head rows of one kind of prompt."""
    atol, key = golden.tolerance("feature_logits"), f"{prompt}/"
    lines = [[template.format(name) for name in spoken(names)] for template in templates(prompt)]
    if f"{key}token_ids" in arrays:
        expected = arrays[f"{key}token_ids"]
        tokens = torch.stack([tokenizer(line) for line in lines])
        report.close(f"{where}token_ids", arranged(tokens, expected), expected)
    for name in (f"{key}text_features_raw", f"{key}text_features"):
        if name in arrays:
            report.close(f"{where}{name.removeprefix(key)}", text_like(arrays[name], model, tokenizer, lines), arrays[name], atol)
    if f"{key}head_weight" in arrays:
        head = text_head(encode_text(model, tokenizer, names, templates(prompt)), projection)
        report.close(f"{where}head_weight", head, arrays[f"{key}head_weight"], atol)


def text_like(expected: np.ndarray, model: nn.Module, tokenizer: Any, lines: list[list[str]]) -> Tensor:
    """Text features in the golden array's form: raw ones per template, or one row per class: the mean of unit features.

    With one template a row is raw unless the golden rows are unit vectors.
    """
    raw = torch.stack([model.encode_text(tokenizer(line)) for line in lines])
    unit = F.normalize(raw, dim=-1)
    if expected.shape != raw.shape[1:]:
        return arranged(raw, expected)
    if len(lines) == 1:
        return unit[0] if np.allclose(np.linalg.norm(expected, axis=-1), 1, atol=1e-4) else raw[0]
    return min((unit.mean(0), F.normalize(unit.mean(0), dim=-1), raw.mean(0)), key=lambda found: difference(found, expected))


def arranged(stacked: Tensor, expected: np.ndarray) -> Tensor:
    """(templates, classes, ...) in the order of the golden array: by template or by class, stacked or in one list."""
    orders = (stacked, stacked.transpose(0, 1))
    ways = [*orders, *(order.flatten(0, 1) for order in orders), *([stacked[0]] if len(stacked) == 1 else [])]
    return min(ways, key=lambda found: difference(found, expected))


def check_zero_shot(
    golden: Golden, report: Report, where: str, arrays: Arrays, text: Tensor, vit: ViT, projection: dict[str, Tensor]
) -> None:
    """CLIP's own classifier on the batch."""
    atol = golden.tolerance("feature_logits")
    if "zeroshot/text_features" in arrays:
        expected = arrays.tensor("zeroshot/text_features")
        report.close(f"{where}text_features", text, F.normalize(expected, dim=-1), atol)
    if "zeroshot/logits" in arrays:
        images, *_ = golden.batch(arrays, vit, len(arrays["zeroshot/logits"]))
        head = ZeroShot(projection["text.projection"], text.to(golden.device), float(projection["text.logit_scale"]))
        # CLIP's scale (about 14 to 100) multiplies the noise of a cosine as it does the logits.
        factor = max(1.0, float(projection["text.logit_scale"]) / 25)
        report.close(f"{where}logits", head(vit(images)), arrays["zeroshot/logits"], atol * factor)


def check_from_images(golden: Golden, report: Report, where: str, arrays: Arrays, group: str, vit: ViT) -> None:
    """Head rows made from features of the batch, without any tuner."""
    expected = arrays[f"{group}/head_weight"]
    labels, images = (recorded(golden, arrays, group, kind) for kind in ("label", "image"))
    if len(labels) != len(images):
        raise Unsupported(f"{len(labels)} labels and {len(images)} images for {group}")
    features, classes = vit(images), len(expected)
    if int(labels.max()) < classes:
        found = FROM_IMAGES[group](features, labels.long(), classes)
    else:  # fewer golden rows than the batch has classes, and nobody wrote down how its labels were folded
        order = torch.arange(len(labels), device=labels.device)
        folds = (labels.long() % classes, order % classes, order * classes // len(order))
        complete = [fold for fold in folds if len(fold.unique()) == classes]
        rows = [FROM_IMAGES[group](features, fold, classes) for fold in complete]
        found = min(rows, key=lambda each: difference(each, expected))
    # A probe stopped after 100 iterations is only as near its optimum as the solver's own tolerance.
    atol = golden.tolerance("feature_logits") if group == "class_mean" else 1e-3
    report.close(f"{where}head_weight", found, expected, atol)


def recorded(golden: Golden, arrays: Arrays, group: str, kind: str) -> Tensor:
    """The labels or images of a group: what the file has of its own under any such name, or the batch's."""
    names = sorted((match[0] for match in arrays.match(rf".*{kind}.*")), key=lambda name: not name.startswith(f"{group}/"))
    if names:
        return arrays.tensor(names[0])
    batches = [golden.arrays(file) for file in golden.files("batch")]
    if len(batches) != 1:
        raise Unsupported(f"{len(batches)} batches to take {kind}s from, expected one")
    return batches[0].tensor(f"{kind}s")
