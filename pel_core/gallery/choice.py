"""Which test images a gallery shows where there are more than it may: mistakes that were sure of themselves, then every class in
turn. Shapes: N images, C classes."""

import numpy as np

from pel_core.gallery.answers import AnsweredSet

SURE = 120  # of each run's mistakes, the most confident ones that are shown before all else


def chosen(one: AnsweredSet, most: int) -> np.ndarray:
    """Positions of at most ``most`` images, in the order of their worth; of each class, those first that runs get wrong."""
    labels = one.split.labels
    wrong = np.stack([answers.predicted != labels for answers in one.answers])
    sure = np.stack([answers.probability for answers in one.answers])
    first = [np.argsort(-sure[run] * wrong[run], kind="stable")[:SURE] for run in range(len(wrong))]
    first = [each[wrong[run][each]] for run, each in enumerate(first)]
    worth = (sure * wrong).max(axis=0)
    by_class = np.lexsort((-worth, labels))
    starts = np.searchsorted(labels[by_class], np.arange(len(one.data.class_names)))
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    in_turn = np.lexsort((labels, place))
    order = np.concatenate([*first, in_turn])
    _, where = np.unique(order, return_index=True)
    return order[np.sort(where)][:most]


def confusions(one: AnsweredSet, predicted: np.ndarray, most: int = 3) -> list[list[list[int]]]:
    """Of each class, the classes that its images are taken for, [class, images], the most frequent first."""
    labels, classes = one.split.labels, len(one.data.class_names)
    wrong = labels != predicted
    pairs, counts = np.unique(labels[wrong] * classes + predicted[wrong], return_counts=True)
    found: list[list[list[int]]] = [[] for _ in range(classes)]
    for at in np.lexsort((pairs, -counts)).tolist():
        label, other = divmod(int(pairs[at]), classes)
        if len(found[label]) < most:
            found[label].append([other, int(counts[at])])
    return found
