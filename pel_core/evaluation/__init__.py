"""From a trained run to numbers: the forward pass over test images, metrics, predictions, new images.

Start with `evaluate` and `metrics`. Tables and figures are unknown here.
"""
