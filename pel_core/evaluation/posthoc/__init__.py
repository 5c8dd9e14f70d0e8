"""Post-hoc steps: what is done to stored logits before they are scored. One file an entry; they are taken in this order.

A step is a class, registered in POSTHOC under its name with `spec.posthoc.step_knob` of that name, with two static methods:

``apply(logits_NC, counts_C, value)``
    the logits after it, float64; ``counts_C``: training images of each class; ``value``: the knob's number.
``fit(logits_NC, labels_N, counts_C)``
    the number that is best on validation images, whose logits have gone through the steps before this one.

It may also have ``ends``, the lowest and highest number that ``fit`` tries: one at an end is marked. Both methods are
deterministic, and see N images of C classes in NumPy alone. Scoring gives them all images at once.
"""

from pel_core.evaluation.posthoc import logit_adjustment as logit_adjustment
from pel_core.evaluation.posthoc import temperature as temperature
