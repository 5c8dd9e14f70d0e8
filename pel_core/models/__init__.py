"""Networks: the canonical ViT, METHODS and the deltas they attach, surgery, heads, BACKBONES, their weights and text features.

Start with `methods` (data) and `surgery` (what applies them). Data and training are unknown here.
"""
