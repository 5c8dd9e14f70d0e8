"""Pre-train `clip-mini`, the demo's CLIP, on pictures and captions of the demo world.

    python -m pel_core.demo.pretrain                    # writes pel_core/demo/clip-mini, about 15 minutes on 2 cores
    python -m pel_core.demo.pretrain --out DIR --steps 50

Recipe: symmetric contrastive loss (identical captions share the target) plus a bag-of-words loss (a linear
layer names the caption's words from the class token, dropped afterwards: it only shortens the plateau at the start),
AdamW, a constant learning rate that falls linearly at the end, fp32. Seeded by name; one core count repeats bit for bit.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pel_core.demo import captions, clip_files
from pel_core.demo.attributes import COLOURS, HELD_OUT_OBJECTS, HELD_OUT_SCENES, LAYOUTS, PATTERNS, SHAPES, generator
from pel_core.demo.world import MILD, Scenes, render

PICTURES, SIDE, CROP = 120_000, 36, 32
CAPTIONS_EACH = 2
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1_200, 256, 2e-3, 0.1, 100
COOL_DOWN = 0.3  # share of the steps, at the end, over which the learning rate falls to 0
WORDS_WEIGHT, WORDS_STEPS = 0.5, 600  # of the bag-of-words loss, falling to 0 over so many steps
SCENE_SHARE, MANY_SHARE = 0.34, 0.10
RESIDUAL_SCALE = 0.15  # see clip_files.shrink_residual


def draw_scenes(n: int, rng: np.random.Generator) -> Scenes:
    """Attributes of n pictures without any held-out triple: two or three objects, layouts, and singles."""
    kind = rng.random(n)
    scene = kind < SCENE_SHARE
    placement = np.where(scene, 3 + rng.integers(0, len(LAYOUTS), n), np.where(kind > 1 - MANY_SHARE, rng.integers(1, 3, n), 0))
    plain = scene & (rng.random(n) < 0.6)
    columns = {"background": rng.integers(0, 6, n), "placement": placement, "size": (rng.random(n) < 0.15).astype(np.int64)}
    columns |= {name: np.zeros(n, np.int64) for name in ("colour", "pattern", "shape")}
    todo = np.arange(n)
    while len(todo):  # draw again whatever hit a held-out triple
        columns["colour"][todo] = rng.integers(0, len(COLOURS), len(todo))
        columns["pattern"][todo] = np.where(plain[todo], 0, rng.integers(0, len(PATTERNS), len(todo)))
        columns["shape"][todo] = rng.integers(0, len(SHAPES), len(todo))
        bad = HELD_OUT_OBJECTS[columns["colour"], columns["pattern"], columns["shape"]]
        layout = np.maximum(placement - 3, 0)
        bad |= scene & HELD_OUT_SCENES[columns["background"], layout, columns["colour"]]
        columns["background"][bad & scene] = rng.integers(0, 6, int((bad & scene).sum()))
        todo = np.flatnonzero(bad)
    return Scenes(**columns)


def make_data(n: int, log=print) -> tuple[torch.Tensor, list[list[str]]]:
    """Pictures uint8 (N, 3, SIDE, SIDE) and CAPTIONS_EACH lists of N captions."""
    start = time.time()
    scenes = draw_scenes(n, generator("pretrain", "scenes"))
    pictures = torch.from_numpy(render(scenes, MILD, SIDE, generator("pretrain", "pictures")))
    texts = [captions.write(scenes, generator("pretrain", "captions", k)) for k in range(CAPTIONS_EACH)]
    log(f"{n} pictures and captions in {time.time() - start:.0f} s")
    return pictures.permute(0, 3, 1, 2).contiguous(), texts


def augment(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Random crop and mirror; floats in [0, 1] (B, 3, CROP, CROP)."""
    n, room = len(pictures), SIDE - CROP + 1
    top, left = (torch.from_numpy(rng.integers(0, room, n)) for _ in range(2))
    flip = torch.from_numpy(rng.random(n) < 0.5)[:, None]
    span = torch.arange(CROP)
    columns = torch.where(flip, CROP - 1 - span, span) + left[:, None]
    rows = span + top[:, None]
    index = torch.arange(n)[:, None, None]
    return pictures[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).float() / 255


def encode_image(model, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class-token feature after ln_post (B, D) and its projection (B, E)."""
    x = model.visual._embeds(images)
    x = model.visual.transformer(x)
    feature = model.visual.ln_post(x[:, 0])
    return feature, feature @ model.visual.proj


def encode_text(model, tokens: torch.Tensor) -> torch.Tensor:
    """Text features (B, E); padding after the longest caption is cut, which changes nothing."""
    length = int((tokens != 0).sum(1).max())
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def contrastive(image, text, logit_scale, caption_id) -> torch.Tensor:
    logits = logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    same = (caption_id[:, None] == caption_id[None]).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Captions:
    """Tokens, word bags and identity of all captions; index (picture, which caption)."""

    def __init__(self, texts: list[list[str]], tokenizer):
        unique = sorted({t for column in texts for t in column})
        place = {t: i for i, t in enumerate(unique)}
        self.id = torch.tensor([[place[t] for t in column] for column in texts]).T
        self.tokens = tokenizer(unique)
        words = {w: i for i, w in enumerate(captions.vocabulary())}
        self.bag = torch.zeros(len(unique), len(words))
        for i, text in enumerate(unique):
            self.bag[i, [words[w] for w in captions.words_of(text)]] = 1
        rate = self.bag.mean(0)
        self.bag[:, rate > 0.25] = 0  # "a", "photo", "of": nothing to see


def learning_rate(step: int, steps: int) -> float:
    return LEARNING_RATE * min((step + 1) / WARMUP, 1.0, (steps - step) / (COOL_DOWN * steps))


def train(out: Path, steps: int, pictures_n: int, checkpoint: Path | None, log=print) -> dict:
    """The whole pre-training; returns what the model card reports."""
    start = time.time()
    out.mkdir(parents=True, exist_ok=True)
    captions.write_merges(out / clip_files.MERGES)
    torch.manual_seed(0)  # open_clip initialises from the global generator
    model, tokenizer = clip_files.new_model(), clip_files.tokenizer(out)
    pictures, texts = make_data(pictures_n, log)
    book = Captions(texts, tokenizer)
    words = torch.nn.Linear(model.visual.ln_post.weight.numel(), book.bag.shape[1])
    parameters = [*model.parameters(), *words.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    first = 0
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"]), words.load_state_dict(state["words"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
        log(f"resumed at step {first}")
    mean, std = (torch.tensor(v)[:, None, None] for v in (clip_files.MEAN, clip_files.STD))
    for step in range(first, steps):
        rng = generator("pretrain", "step", step)
        rows = torch.from_numpy(rng.integers(0, pictures_n, BATCH))
        which = book.id[rows, torch.from_numpy(rng.integers(0, CAPTIONS_EACH, BATCH))]
        images = (augment(pictures[rows], rng) - mean) / std
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        feature, image = encode_image(model, images)
        loss = contrast = contrastive(image, encode_text(model, book.tokens[which]), model.logit_scale, which)
        weight = WORDS_WEIGHT * max(0.0, 1 - step / WORDS_STEPS)
        if weight:
            bag = book.bag[which]
            named = -(F.log_softmax(words(feature), -1) * bag).sum(1) / bag.sum(1).clamp_min(1)
            loss = loss + weight * named.mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(50))
        if step % 50 == 0 or step == steps - 1:
            log(f"step {step} contrastive {contrast.item():.3f} loss {loss.item():.3f} {time.time() - start:.0f} s")
            if checkpoint:
                torch.save(
                    {
                        "model": model.state_dict(),
                        "words": words.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                    },
                    checkpoint,
                )
    clip_files.shrink_residual(model, RESIDUAL_SCALE)
    clip_files.save(model, out)
    return {"steps": steps, "pictures": pictures_n, "seconds": round(time.time() - start), "loss": contrast.item(), "note": ""}


@torch.inference_mode()
def unseen_accuracy(folder: Path, classes: int = 100, each: int = 10) -> dict[str, float]:
    """Zero-shot accuracy in percent on held-out triples in the pre-training style: `objects` and `scenes`."""
    from pel_core.demo.stand_ins import StandIn
    from pel_core.demo.stand_ins import draw_scenes as draw_classes

    model, tokenizer = clip_files.load_model(folder), clip_files.tokenizer(folder)
    mean, std = (torch.tensor(v)[:, None, None] for v in (clip_files.MEAN, clip_files.STD))
    result = {"classes": classes, "chance": 100 / classes}
    for kind, mask in (("objects", HELD_OUT_OBJECTS), ("scenes", HELD_OUT_SCENES)):
        rng = generator("unseen", kind)
        triples = rng.permutation(np.argwhere(mask))[:classes]
        task = StandIn(kind, kind, tuple(map(tuple, triples.tolist())), CROP, each, each, {}, {})
        labels = np.repeat(np.arange(classes), each)
        pictures = torch.from_numpy(render(draw_classes(task, labels, rng), MILD, SIDE, rng))
        margin = (SIDE - CROP) // 2
        crops = pictures[:, margin : margin + CROP, margin : margin + CROP].permute(0, 3, 1, 2).float() / 255
        text = model.encode_text(tokenizer([f"a photo of a {n}." for n in task.class_names]), normalize=True)
        image = torch.cat([model.encode_image(part, normalize=True) for part in ((crops - mean) / std).split(250)])
        result[kind] = 100 * ((image @ text.T).argmax(1).numpy() == labels).mean()
    return result


def card_facts(folder: Path, trained: dict) -> dict:
    """Everything that the model card quotes."""
    parameters = sum(p.numel() for p in clip_files.load_model(folder).parameters())
    recipe = {
        "batch": BATCH,
        "lr": LEARNING_RATE,
        "decay": WEIGHT_DECAY,
        "warmup": WARMUP,
        "words": WORDS_WEIGHT,
        "words_steps": WORDS_STEPS,
        "scale": RESIDUAL_SCALE,
        "torch": torch.__version__.split("+")[0],
        "threads": torch.get_num_threads(),
        "words_known": len(captions.vocabulary()),
        "merges": clip_files.MERGES,
    }
    return {**trained, **recipe, "parameters": parameters, **unseen_accuracy(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=clip_files.FOLDER,
        help="folder of the weights, configuration, merges and model card; by default the repository's own",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of 256 pairs; default %(default)s, the recipe of record")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="how many to render; default %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s; another number rounds differently")
    parser.add_argument("--checkpoint", type=Path, help="file to resume from, written every 50 steps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = train(arguments.out, arguments.steps, arguments.pictures, arguments.checkpoint, lambda line: print(line, flush=True))
    clip_files.write_card(arguments.out, card_facts(arguments.out, facts))


if __name__ == "__main__":
    main()
