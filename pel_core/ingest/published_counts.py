"""COUNTS: how many classes and images the published data sets of `pel_core.data.published_datasets` have, and who says so.

``data check`` and preparing compare what is there with these. What no source could be found for is left out.

Sources, by the letters behind each line:
V: Jia et al. 2022 (VPT), Table 7. T: the catalogue of TensorFlow Datasets (tensorflow.org/datasets/catalog). C: Zhou et al. 2022
(CoOp), the split of that name, 50 / 20 / 30 % of the training images unless the data set has a split of its own. I:
github.com/visipedia/inat_comp, the page of the year. P: Zhou et al. 2017 (Places), the data set's page. K: Krizhevsky 2009. W:
the data set's own page.
"""

from pel_core.data.published_datasets import VTAB
from pel_core.ingest.facts import Facts

PUT = "Put it into {root}"
COOP = "its file split_zhou_{name}.json (github.com/KaiyangZhou/CoOp, DATASETS.md) into the folder above {{root}}"


def _coop(what: str, name: str) -> str:
    return f"Get the images ({what}) as {{root}}, and {COOP.format(name=name)}."


def _facts(classes: int, images: tuple[int, int] | None, address: str, by_hand: str = "", **more) -> Facts:
    return Facts(classes=classes, images=images, address=address, by_hand=by_hand, **more)


COUNTS: dict[str, Facts] = {
    "cifar10": _facts(10, (50_000, 10_000), "https://www.cs.toronto.edu/~kriz/cifar.html", profile=(5000, 5000)),  # K
    "flowers102": _facts(102, (1020, 6149), "https://www.robots.ox.ac.uk/~vgg/data/flowers/102", val=1020, profile=(10, 10)),  # V
    "food101": _facts(101, (75_750, 25_250), "https://data.vision.ee.ethz.ch/cvl/datasets_extra", profile=(750, 750)),  # T
    "dtd": _facts(47, (1880, 1880), "https://www.robots.ox.ac.uk/~vgg/data/dtd", val=1880),  # T
    "aircraft": _facts(100, (3334, 3333), "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft", val=3333),  # C: its own split
    "pets": _facts(37, (3680, 3669), "https://www.robots.ox.ac.uk/~vgg/data/pets"),  # T
    "places365": _facts(365, (1_803_460, 36_500), "http://places2.csail.mit.edu", profile=(5000, 3068)),  # P
    "caltech256": _facts(256, None, "https://data.caltech.edu/records/nyy15-4j048"),  # W: 30,607 images with the clutter
    "tiny-imagenet": _facts(
        200, (100_000, 10_000), "http://cs231n.stanford.edu",
        f"Get http://cs231n.stanford.edu/tiny-imagenet-200.zip. {PUT}, so that train, val and words.txt lie in it.",
        profile=(500, 500),
    ),  # W
    "cub200": _facts(
        200, (5994, 5794), "https://www.vision.caltech.edu/datasets/cub_200_2011",
        "Get CUB_200_2011.tgz (https://data.caltech.edu/records/65de6-vp158) and unpack it, so that {root} is its folder images.",
    ),  # V: 5,394 + 600 training images
    "stanford-dogs": _facts(
        120, (12_000, 8580), "http://vision.stanford.edu/aditya86/ImageNetDogs",
        "Get images.tar and lists.tar from http://vision.stanford.edu/aditya86/ImageNetDogs and unpack both in the folder above "
        "{root}.",
        profile=(100, 100),
    ),  # V: 10,800 + 1,200 training images
    "inat2019": _facts(
        1010, (265_213, 3030), "https://github.com/visipedia/inat_comp/tree/master/2019",
        "Get train_val2019.tar.gz, train2019.json.tar.gz and val2019.json.tar.gz (https://github.com/visipedia/inat_comp/tree/"
        "master/2019) and unpack all in {root}. Names of species are in its categories.json.tar.gz, for `naming`.",
    ),  # I: 268,243 images in both
    "inat2021": _facts(
        10_000, (2_686_843, 100_000), "https://github.com/visipedia/inat_comp/tree/master/2021",
        "Get train.tar.gz, val.tar.gz, train.json.tar.gz and val.json.tar.gz (https://github.com/visipedia/inat_comp/tree/master/"
        "2021) and unpack all in {root}.",
    ),  # I
    "caltech101": _facts(
        100, (4128, 2465), "https://data.caltech.edu/records/mzrjq-6wc02",
        _coop("https://data.caltech.edu/records/mzrjq-6wc02, its 101_ObjectCategories", "Caltech101"), val=1649,
    ),  # C
    "eurosat": _facts(
        10, (13_500, 8100), "https://github.com/phelber/EuroSAT", _coop("EuroSAT.zip, its folder 2750", "EuroSAT"), val=5400,
    ),  # C
    "sun397": _facts(
        397, (15_880, 19_850), "https://vision.princeton.edu/projects/2010/SUN",
        _coop("SUN397.tar.gz, its folder SUN397", "SUN397"), val=3970,
    ),  # C
}  # fmt: skip

# Classes and test images. V
_VTAB = {
    "cifar100": (100, 10_000), "caltech101": (102, 6084), "dtd": (47, 1880), "flowers102": (102, 6149), "pets": (37, 3669),
    "svhn": (10, 26_032), "sun397": (397, 21_750), "camelyon": (2, 32_768), "eurosat": (10, 5400), "resisc45": (45, 6300),
    "retinopathy": (5, 42_670), "clevr-count": (8, 15_000), "clevr-distance": (6, 15_000), "dmlab": (6, 22_735),
    "kitti": (4, 711), "dsprites-location": (16, 73_728), "dsprites-orientation": (16, 73_728),
    "smallnorb-azimuth": (18, 12_150), "smallnorb-elevation": (9, 12_150),
}  # fmt: skip
for _name, (_classes, _test) in _VTAB.items():
    COUNTS[f"vtab-{_name}"] = _facts(
        _classes,
        (1000, _test),
        "https://github.com/ZhangYuanhan-AI/NOAH",
        f"Get the archive that https://github.com/ZhangYuanhan-AI/NOAH links to, so that its folder {VTAB[_name]} is {{root}}.",
    )
