"""The vocabulary of the values in metrics.json that a study may print: metrics, and dotted paths into its parts. Torch-free."""

from pel_core.common.errors import PLUGIN, unknown
from pel_core.spec.choices import METRICS, knob_owners
from pel_core.spec.posthoc import POSTHOC
from pel_core.spec.run_spec import DEFAULTS

# The parts of metrics.json a study may print from, as dotted paths, and what there is in each beside METRICS and knobs.
SECTIONS: dict[str, tuple[str, ...]] = {
    "metrics": ("per_class",),
    "parameters": ("learnable", "head", "learnable_with_head", "frozen", "by_part", "adapter_dim"),
    "training": ("curve", "seconds", "images_per_second", "peak_memory_mb", "micro_batch"),
    "evaluation": ("tte", "crops", "precision", "seconds", "images_per_second", "peak_memory_mb", "logits"),
    "data": ("name", "classes", "train_images", "test_images", "train_counts", "groups", "sha256"),
    "spec": ("dataset", "backbone", "method", "seed", *DEFAULTS),
    "backbone": ("name", "arch", "label", "layers", "sha256", "source_sha256"),
    "posthoc": (),
}


def value_path(text: str) -> str:
    """A value as a study writes it -> its dotted path in metrics.json: ``tail`` -> ``metrics.tail``.

    Raises:
        PelError: neither a metric nor a path into one of the sections.
    """
    if text in METRICS:
        return f"metrics.{text}"
    section, _, rest = text.partition(".")
    if section not in SECTIONS or not rest:
        raise unknown(
            "value", text, METRICS, f"Or give a path such as parameters.head; sections: {', '.join(SECTIONS)}. {PLUGIN}"
        )
    keys = section_keys(section)
    if rest not in keys and rest.split(".")[0] not in keys:
        raise unknown("value", text, [f"{section}.{key}" for key in keys])
    return text


def section_keys(section: str) -> tuple[str, ...]:
    """What there is in a section of metrics.json: metrics, knobs and post-hoc steps, those of plugins among them."""
    also = {"metrics": METRICS, "posthoc": POSTHOC, "spec": knob_owners() if section == "spec" else ()}.get(section, ())
    return (*also, *SECTIONS[section])
