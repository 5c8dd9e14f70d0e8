"""Networks: the canonical ViT, METHODS and the deltas they attach, surgery, heads, BACKBONES, their weights and text features.

Start with `methods` (data) and `surgery` (what applies them). A method with a delta of its own is one new file,
imported at the end of this one. Data and training are unknown here.
"""

from pel_core.models import (  # noqa: F401
    affine,
    clip_adapter,
    convpass,
    dora,
    fact,
    gated_prompts,
    group_prompts,
    knn,
    repadapter,
    retrieval,
    text_heads,
    tip_adapter,
    vera,
    vl_ltr,
)
