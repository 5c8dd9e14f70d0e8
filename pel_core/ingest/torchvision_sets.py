"""TORCHVISION: the classification sets of torchvision, by the name of their class. Their parts, and what has to be said.

By the classes and documentation of torchvision 0.29 (docs.pytorch.org/vision/stable/datasets.html). What is no classification of
single images is not here: detection, segmentation, video, flow, stereo, pairs (LFWPairs), attributes (CelebA), and classes that
have no data of their own (ImageFolder, FakeData). Torch-free.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

TRAIN_TEST = {"train": {"train": True}, "test": {"train": False}}


def _parts(*names: str, argument: str = "split") -> dict[str, dict[str, Any]]:
    return {name: {argument: name} for name in names}


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet:
    """A class of torchvision.

    ``parts``: its native parts, and the arguments that ask for each. ``splits``: which part is train, val and test where there is
    one reading alone; empty where it has to be said, which ``why`` explains. ``contains``: parts that hold other parts.
    ``places``: patterns of files and folders below the root that it consists of; {part} stands for each part that is used.
    ``arguments``: further arguments and their values; ``asked``: those that have to be said.
    ``pixels``: images are held in arrays, and are written to files; else they are files, which stay where they are.
    ``paths``: the file of each image, of a class that cannot tell (that has no argument ``loader``).
    ``unordered``: its labels follow the disk's order of folders, so that classes are ordered by name here.
    ``by_hand``: why it cannot be downloaded, and what to do. ``needs``: a library. ``name``: a class's name, of the class as the
    set calls it.
    """

    parts: Mapping[str, Mapping[str, Any]]
    places: tuple[str, ...]
    splits: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    contains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    pixels: bool = False
    paths: Callable[[Any], list[Any]] | None = None
    unordered: bool = False
    by_hand: str = ""
    needs: str = ""
    name: Callable[[str], str] | None = None


NO_SPLIT = "it has no split of its own"
BOTH = {"train": "train", "test": "test"}
THREE = {"train": "train", "val": "val", "test": "test"}
WHOLE = {"all": {}}


def _mnist(folder: str, **more: Any) -> TorchvisionSet:
    return TorchvisionSet(**{"parts": TRAIN_TEST, "splits": BOTH, "places": (f"{folder}/raw",), "pixels": True} | more)


def _caltech101(images: Any) -> list[str]:
    folder = f"{images.root}/101_ObjectCategories"
    return [f"{folder}/{images.categories[y]}/image_{i:04d}.jpg" for y, i in zip(images.y, images.index, strict=True)]


def _caltech256(images: Any) -> list[str]:
    folder = f"{images.root}/256_ObjectCategories"
    return [f"{folder}/{images.categories[y]}/{y + 1:03d}_{i:04d}.jpg" for y, i in zip(images.y, images.index, strict=True)]


def _behind_dot(folder: str) -> str:
    """Caltech-256: 001.ak47 -> ak47."""
    return folder.partition(".")[2] or folder


def _behind_letter(category: str) -> str:
    """Places365: /a/airfield -> airfield."""
    return category[3:] if category[:1] == "/" else category


def _species(category: str) -> str:
    """iNaturalist 2021: 00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris -> the last two words."""
    words = category.split("_")
    return " ".join(words[-2:]) if len(words) == 8 else category


TORCHVISION: dict[str, TorchvisionSet] = {
    "CIFAR10": TorchvisionSet(parts=TRAIN_TEST, splits=BOTH, places=("cifar-10-batches-py",), pixels=True),
    "CIFAR100": TorchvisionSet(parts=TRAIN_TEST, splits=BOTH, places=("cifar-100-python",), pixels=True),
    "Caltech101": TorchvisionSet(
        parts=WHOLE, why=NO_SPLIT, places=("caltech101/101_ObjectCategories",), paths=_caltech101
    ),
    "Caltech256": TorchvisionSet(
        parts=WHOLE, why=NO_SPLIT, places=("caltech256/256_ObjectCategories",), paths=_caltech256, name=_behind_dot
    ),
    "CLEVRClassification": TorchvisionSet(
        parts=_parts("train", "val"), splits={"train": "train", "val": "val"}, places=("clevr",)  # its test part has no labels
    ),
    "Country211": TorchvisionSet(
        parts=_parts("train", "valid", "test"), splits={"train": "train", "val": "valid", "test": "test"}, places=("country211",)
    ),
    "DTD": TorchvisionSet(
        parts=_parts("train", "val", "test"), splits=THREE, places=("dtd/dtd",), arguments={"partition": tuple(range(1, 11))},
        asked=("partition",),
    ),
    "EMNIST": _mnist(
        "EMNIST", arguments={"split": ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")}, asked=("split",)
    ),
    "EuroSAT": TorchvisionSet(parts=WHOLE, why=NO_SPLIT, places=("eurosat/2750",)),
    "FashionMNIST": _mnist("FashionMNIST"),
    "FER2013": TorchvisionSet(
        parts=_parts("train", "test"), splits=BOTH, places=("fer2013",), pixels=True,
        by_hand="torchvision downloads nothing of it: get fer2013.csv or icml_face_data.csv from Kaggle (challenges in "
        "representation learning: facial expression recognition) into {root}/fer2013",
    ),
    "FGVCAircraft": TorchvisionSet(
        parts=_parts("train", "val", "trainval", "test"), places=("fgvc-aircraft-2013b",),
        contains={"trainval": ("train", "val")},
        why="train and val, or trainval", arguments={"annotation_level": ("variant", "family", "manufacturer")},
    ),
    "Flowers102": TorchvisionSet(
        parts=_parts("train", "val", "test"), splits=THREE, places=("flowers-102",), needs="scipy"
    ),
    "Food101": TorchvisionSet(parts=_parts("train", "test"), splits=BOTH, places=("food-101",)),
    "GTSRB": TorchvisionSet(
        parts=_parts("train", "test"), splits=BOTH, places=("gtsrb",), paths=lambda images: [path for path, _ in images._samples]
    ),
    "ImageNet": TorchvisionSet(
        parts=_parts("train", "val"), splits={"train": "train", "val": "val"}, places=("meta.bin", "train", "val"),
        by_hand="the images of ImageNet are not free to pass on: put ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar (image-net.org/download-images, with an account) into {root}, and let torchvision unpack them: "
        'python -c "from torchvision.datasets import ImageNet; [ImageNet(\'{root}\', part) for part in (\'train\', \'val\')]"',
    ),
    "Imagenette": TorchvisionSet(
        parts=_parts("train", "val"), splits={"train": "train", "val": "val"}, places=("imagenette2*",),
        arguments={"size": ("full", "320px", "160px")},
    ),
    "INaturalist": TorchvisionSet(
        parts=_parts("2017", "2018", "2019", "2021_train", "2021_train_mini", "2021_valid", argument="version"),
        places=("{part}",), contains={"2021_train": ("2021_train_mini",)}, name=_species,
        why="2021_train or 2021_train_mini with 2021_valid, or a year that has training and validation images in one",
    ),
    "KMNIST": _mnist("KMNIST"),
    "LFWPeople": TorchvisionSet(
        parts=_parts("10fold", "train", "test"), places=("lfw-py",), why="its train and test parts are of different people",
        arguments={"image_set": ("original", "funneled", "deepfunneled")},
        by_hand="it cannot be downloaded any more, as torchvision says, which names a mirror: "
        "https://www.kaggle.com/datasets/jessicali9530/lfw-dataset; put it into {root}/lfw-py",
    ),
    "MNIST": _mnist("MNIST"),
    "Omniglot": TorchvisionSet(
        parts={"background": {"background": True}, "evaluation": {"background": False}}, places=("omniglot-py/images_{part}",),
        why="background and evaluation are of different characters", unordered=True,
    ),
    "OxfordIIITPet": TorchvisionSet(
        parts=_parts("trainval", "test"), splits={"train": "trainval", "test": "test"}, places=("oxford-iiit-pet",),
        arguments={"target_types": ("category", "binary-category")}, paths=lambda images: images._images,
    ),
    "PCAM": TorchvisionSet(parts=_parts("train", "val", "test"), splits=THREE, places=("pcam",), pixels=True, needs="h5py"),
    "Places365": TorchvisionSet(
        parts=_parts("train-standard", "train-challenge", "val"), contains={"train-challenge": ("train-standard",)},
        places=("categories_places365.txt", "places365_*.txt", "data_*", "val_*"),
        arguments={"small": (False, True)}, asked=("small",),
        why="train-standard or train-challenge (its test part has no labels)", name=_behind_letter,
    ),
    "QMNIST": _mnist(
        "QMNIST", parts=_parts("train", "test", "test10k", "test50k", "nist", argument="what"), splits={},
        contains={"test": ("test10k", "test50k"), "nist": ("train", "test", "test10k", "test50k")},
        why="its test part, or one of the two that it is made of",
    ),
    "RenderedSST2": TorchvisionSet(parts=_parts("train", "val", "test"), splits=THREE, places=("rendered-sst2",)),
    "SEMEION": TorchvisionSet(parts=WHOLE, why=NO_SPLIT, places=("semeion.data",), pixels=True),
    "STL10": TorchvisionSet(
        parts=_parts("train", "test"), splits=BOTH, places=("stl10_binary",), arguments={"folds": tuple(range(10))}, pixels=True
    ),
    "StanfordCars": TorchvisionSet(
        parts=_parts("train", "test"), splits=BOTH, places=("stanford_cars",), needs="scipy",
        by_hand="its download is dead, as torchvision says (\"The original URL is broken\"); with a copy from elsewhere, put "
        "cars_train, cars_test, devkit and cars_test_annos_withlabels.mat into {root}/stanford_cars",
    ),
    "SUN397": TorchvisionSet(parts=WHOLE, why=NO_SPLIT, places=("SUN397",)),
    "SVHN": TorchvisionSet(
        parts=_parts("train", "test", "extra"), splits=BOTH, places=("{part}_32x32.mat",), pixels=True, needs="scipy"
    ),
    "USPS": TorchvisionSet(parts=TRAIN_TEST, splits=BOTH, places=("usps*.bz2",), pixels=True),
}  # fmt: skip
