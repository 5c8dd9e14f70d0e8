"""Published data sets as entries of DATASETS, a few lines each: those of torchvision and those with a published split file.

What is known of their numbers, and from where: `pel_core.ingest.published_counts`. How they are got: ``data fetch NAME``.
Torch-free.
"""

from typing import Any

from pel_core.data.datasets import DATASETS, LongTailed


def _torchvision(name: str, about: str, options: dict[str, Any], **more: Any) -> None:
    """A set of torchvision, in the folder that torchvision calls root."""
    DATASETS.register(name, LongTailed(kind="torchvision", options={"root": ".", **options}, **more), about=about)


def _split_file(name: str, about: str, options: dict[str, Any], **more: Any) -> None:
    """Images with a published split."""
    DATASETS.register(name, LongTailed(kind="split_file", options=options, **more), about=about)


_torchvision(
    "cifar10", "CIFAR-10, long-tailed at any ratio (Cui et al. 2019)", {"set": "CIFAR10"}, native_resolution=32,
    ratios="any", groups_from=100, pool=(10, 5000),
)  # fmt: skip
_torchvision("flowers102", "Oxford Flowers: 102 flowers (Nilsback & Zisserman 2008), its own splits", {"set": "Flowers102"})
_torchvision("food101", "Food-101 (Bossard et al. 2014), its own splits", {"set": "Food101"})
_torchvision("dtd", "Describable Textures: 47 (Cimpoi et al. 2014), the first of its ten partitions", {
    "set": "DTD", "arguments": {"partition": 1}
})  # fmt: skip
_torchvision("aircraft", "FGVC-Aircraft: 100 variants (Maji et al. 2013), training, validation, test", {
    "set": "FGVCAircraft", "splits": {"train": "train", "val": "val", "test": "test"}
})  # fmt: skip
_torchvision("pets", "Oxford-IIIT Pet: 37 breeds (Parkhi et al. 2012), trainval and test", {"set": "OxfordIIITPet"})
_torchvision("places365", "Places365-Standard, small images (Zhou et al. 2017); its validation images are the test split", {
    "set": "Places365", "splits": {"train": "train-standard", "test": "val"}, "arguments": {"small": True}
})  # fmt: skip
_torchvision("caltech256", "Caltech-256 (Griffin et al. 2007) without its clutter; a fifth of each class is held out", {
    "set": "Caltech256", "exclude": ("clutter",), "test_fraction": 0.2
})  # fmt: skip

_split_file(
    "tiny-imagenet", "Tiny ImageNet, long-tailed at any ratio (Cao et al. 2019); its validation images are the test split",
    {"root": "tiny-imagenet-200", "file": "val/val_annotations.txt"}, native_resolution=64,
    ratios="any", groups_from=100, pool=(200, 500),
)  # fmt: skip
_split_file("cub200", "CUB-200-2011: 200 birds (Wah et al. 2011), its own split", {
    "root": "CUB_200_2011/images", "file": "../train_test_split.txt"
})  # fmt: skip
_split_file("stanford-dogs", "Stanford Dogs: 120 breeds (Khosla et al. 2011), its own split", {
    "root": "stanford-dogs/Images", "train": "../train_list.mat", "test": "../test_list.mat"
})  # fmt: skip
_split_file("inat2019", "iNaturalist 2019: 1,010 species; its validation images are the test split", {
    "root": "inat2019", "train": "train2019.json", "test": "val2019.json"
})  # fmt: skip
_split_file("inat2021", "iNaturalist 2021: 10,000 species; its validation images are the test split", {
    "root": "inat2021", "train": "train.json", "test": "val.json"
})  # fmt: skip
_split_file("caltech101", "Caltech-101 (Fei-Fei et al. 2004), CoOp's split of 100 classes", {
    "root": "caltech-101/101_ObjectCategories", "file": "../split_zhou_Caltech101.json"
})  # fmt: skip
_split_file("eurosat", "EuroSAT: 10 kinds of land (Helber et al. 2019), CoOp's split", {
    "root": "eurosat/2750", "file": "../split_zhou_EuroSAT.json"
})  # fmt: skip
_split_file("sun397", "SUN397: 397 scenes (Xiao et al. 2010), CoOp's split", {
    "root": "sun397/SUN397", "file": "../split_zhou_SUN397.json"
})  # fmt: skip

# Name here -> folder, as the 19 tasks are passed on (github.com/ZhangYuanhan-AI/NOAH).
VTAB = {
    "caltech101": "caltech101", "cifar100": "cifar", "dtd": "dtd", "flowers102": "oxford_flowers102", "pets": "oxford_iiit_pet",
    "svhn": "svhn", "sun397": "sun397", "camelyon": "patch_camelyon", "eurosat": "eurosat", "resisc45": "resisc45",
    "retinopathy": "diabetic_retinopathy", "clevr-count": "clevr_count", "clevr-distance": "clevr_dist", "dmlab": "dmlab",
    "kitti": "kitti", "dsprites-location": "dsprites_loc", "dsprites-orientation": "dsprites_ori",
    "smallnorb-azimuth": "smallnorb_azi", "smallnorb-elevation": "smallnorb_ele",
}  # fmt: skip
for _name, _folder in VTAB.items():
    _split_file(f"vtab-{_name}", f"VTAB-1k's {_folder} (Zhai et al. 2019): 1,000 training images", {
        "root": f"vtab-1k/{_folder}", "train": "train800val200.txt", "test": "test.txt"
    })  # fmt: skip
