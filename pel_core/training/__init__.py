"""One run's training: classifier, losses, step, loop, checkpoints, and the way from a slug to its trained parameters (`run`).

Start with `loop`: it fits on a screen. Tables and figures are unknown here.
"""
