"""torchvision's classification sets, made small in their true formats: a function for each, which writes below a root.

Three classes unless a set has a fixed number. Checksums that torchvision keeps are set to those of the made files (`Patch`).
"""

import bz2
import gzip
import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Patch = Callable[[object, str, object], None]  # monkeypatch.setattr
DRAW = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return DRAW.integers(0, 256, shape, dtype=np.uint8)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(9, 8, 3)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def cifar10(root: Path, patch: Patch) -> None:
    """Five batches of 3 images and a test batch of 3, of 10 named classes of which 3 are there."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def batch(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5(folder / name)]

    def images() -> dict:
        return {"data": pixels(3, 3072), "labels": [0, 1, 9]}

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    patch(CIFAR10, "train_list", [batch(f"data_batch_{i}", images()) for i in range(1, 6)])
    patch(CIFAR10, "test_list", [batch("test_batch", images())])
    made = batch("batches.meta", {"label_names": names})
    patch(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": made[1]})


def mnist(root: Path, patch: Patch, folder: str = "MNIST", prefixes: tuple[str, str] = ("train-", "t10k-")) -> None:
    """Ubyte files of 6 and 3 images of 28 x 28."""
    for prefix, count in zip(prefixes, (6, 3), strict=True):
        raw = root / folder / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        (raw / f"{prefix}images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, count, 28, 28) + pixels(count, 28, 28).tobytes()
        )
        labels = bytes([1, 2, 3] * (count // 3))
        (raw / f"{prefix}labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)


def emnist(root: Path, patch: Patch) -> None:
    mnist(root, patch, "EMNIST", ("emnist-letters-train-", "emnist-letters-test-"))


def usps(root: Path, patch: Patch) -> None:
    for name, count in (("usps.bz2", 6), ("usps.t.bz2", 3)):
        lines = [
            f"{i % 3 + 1} " + " ".join(f"{j}:{v:.3f}" for j, v in enumerate(DRAW.uniform(-1, 1, 256), 1)) for i in range(count)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))


def semeion(root: Path, patch: Patch) -> None:
    from torchvision.datasets import SEMEION

    rows = [" ".join(["1.0000", "0.0000"] * 128 + [str(int(i % 3 == c)) for c in range(10)]) for i in range(9)]
    text(root / "semeion.data", *rows)
    patch(SEMEION, "md5_checksum", md5(root / "semeion.data"))


def svhn(root: Path, patch: Patch) -> None:
    """Digits of 32 x 32; the label 10 is the digit 0."""
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    made = dict(SVHN.split_list)
    for split, count in (("train", 6), ("test", 3)):
        path = root / f"{split}_32x32.mat"
        labels = np.array([[10], [1], [2]] * (count // 3), np.uint8)
        savemat(path, {"X": pixels(32, 32, 3, count), "y": labels})
        made[split] = [made[split][0], path.name, md5(path)]
    patch(SVHN, "split_list", made)


def stl10(root: Path, patch: Patch) -> None:
    from torchvision.datasets import STL10

    folder = root / "stl10_binary"
    folder.mkdir()

    def file(name: str, content: bytes) -> list[str]:
        (folder / name).write_bytes(content)
        return [name, md5(folder / name)]

    train = [file("train_X.bin", pixels(6, 3, 96, 96).tobytes()), file("train_y.bin", bytes([1, 2, 3] * 2))]
    patch(STL10, "train_list", [*train, file("unlabeled_X.bin", pixels(1, 3, 96, 96).tobytes())])
    patch(STL10, "test_list", [file("test_X.bin", pixels(3, 3, 96, 96).tobytes()), file("test_y.bin", bytes([1, 2, 3]))])
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    text(folder / "class_names.txt", *names)


def pcam(root: Path, patch: Patch) -> None:
    import h5py
    from torchvision.datasets import PCAM

    (root / "pcam").mkdir()
    for split in ("train", "val", "test"):
        files = PCAM._FILES[split]
        with h5py.File(root / "pcam" / files["images"][0], "w") as file:
            file["x"] = pixels(4, 96, 96, 3)
        with h5py.File(root / "pcam" / files["targets"][0], "w") as file:
            file["y"] = np.array([0, 1, 0, 1], np.uint8).reshape(4, 1, 1, 1)


def fer2013(root: Path, patch: Patch) -> None:
    from torchvision.datasets import FER2013

    uses = ["Training"] * 6 + ["PublicTest", "PrivateTest", "PublicTest"]
    rows = [f"{i % 3},{' '.join(map(str, pixels(2304)))},{use}" for i, use in enumerate(uses)]
    text(root / "fer2013/fer2013.csv", "emotion,pixels,Usage", *rows)
    patch(FER2013, "_RESOURCES", FER2013._RESOURCES | {"fer": ("fer2013.csv", md5(root / "fer2013/fer2013.csv"))})


def flowers102(root: Path, patch: Patch) -> None:
    """Images 1 to 9 of the classes 1, 2 and 3 of 102."""
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    base = root / "flowers-102"
    for i in range(1, 10):
        photo(base / f"jpg/image_{i:05d}.jpg")
    savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 3] * 3])})
    savemat(base / "setid.mat", {"trnid": np.array([[1, 2, 3]]), "valid": np.array([[4, 5, 6]]), "tstid": np.array([[7, 8, 9]])})
    files = {"label": ("imagelabels.mat", md5(base / "imagelabels.mat")), "setid": ("setid.mat", md5(base / "setid.mat"))}
    patch(Flowers102, "_file_dict", Flowers102._file_dict | files)


def dtd(root: Path, patch: Patch) -> None:
    for split, first in (("train2", 0), ("val2", 2), ("test2", 3)):
        numbers = range(first, first + (2 if split == "train2" else 1))
        names = [f"{kind}/{kind}_{i:04d}.jpg" for kind in ("banded", "dotted", "woven") for i in numbers]
        text(root / f"dtd/dtd/labels/{split}.txt", *names)
        for name in names:
            photo(root / "dtd/dtd/images" / name)


def eurosat(root: Path, patch: Patch) -> None:
    for kind in ("AnnualCrop", "Forest", "SeaLake"):
        for i in range(1, 6):
            photo(root / f"eurosat/2750/{kind}/{kind}_{i}.jpg")


def food101(root: Path, patch: Patch) -> None:
    kinds = ("apple_pie", "hot_dog", "waffles")
    for split, numbers in (("train", (11, 12)), ("test", (13,))):
        listed = {kind: [f"{kind}/{i}" for i in numbers] for kind in kinds}
        text(root / f"food-101/meta/{split}.json", json.dumps(listed))
        for name in [name for names in listed.values() for name in names]:
            photo(root / f"food-101/images/{name}.jpg")


def pets(root: Path, patch: Patch) -> None:
    base = root / "oxford-iiit-pet"
    kinds = {"Abyssinian": (1, 1), "american_bulldog": (2, 2), "Bengal": (3, 1)}
    for split, numbers in (("trainval", (100, 101)), ("test", (201,))):
        lines = [f"{kind}_{i} {label} {binary} 1" for kind, (label, binary) in kinds.items() for i in numbers]
        text(base / f"annotations/{split}.txt", *lines)
        for line in lines:
            photo(base / f"images/{line.split()[0]}.jpg")


def cars(root: Path, patch: Patch) -> None:
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"], object)
    savemat(base / "devkit/cars_meta.mat", {"class_names": names})
    for split, file, count in (("train", "devkit/cars_train_annos.mat", 6), ("test", "cars_test_annos_withlabels.mat", 3)):
        kinds = np.dtype([("class", "O"), ("fname", "O")])
        rows = np.array([(i % 3 + 1, f"{i + 1:05d}.jpg") for i in range(count)], kinds)
        savemat(base / file, {"annotations": rows})
        for row in rows:
            photo(base / f"cars_{split}" / row["fname"])


def aircraft(root: Path, patch: Patch) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    text(data / "variants.txt", "707-320", "727-200", "A310")
    number = 1
    for split, each in (("train", 2), ("val", 1), ("test", 1)):
        lines = []
        for kind in ("707-320", "727-200", "A310"):
            for _ in range(each):
                lines.append(f"{number:07d} {kind}")
                photo(data / f"images/{number:07d}.jpg")
                number += 1
        text(data / f"images_variant_{split}.txt", *lines)
    both = [(data / f"images_variant_{split}.txt").read_text() for split in ("train", "val")]
    (data / "images_variant_trainval.txt").write_text("".join(both))


def sun397(root: Path, patch: Patch) -> None:
    names = ("abbey", "airport_terminal", "apartment_building/outdoor")
    text(root / "SUN397/ClassName.txt", *(f"/a/{name}" for name in names))
    for name in names:
        for i in range(5):
            photo(root / f"SUN397/a/{name}/sun_{i}{name[:3]}.jpg")


def gtsrb(root: Path, patch: Patch) -> None:
    for label in range(3):
        for i in range(2):
            photo(root / f"gtsrb/GTSRB/Training/{label:05d}/00000_{i:05d}.ppm")
        photo(root / f"gtsrb/GTSRB/Final_Test/Images/{label:05d}.ppm")
    rows = [f"{label:05d}.ppm;9;8;1;1;7;7;{label}" for label in range(3)]
    text(root / "gtsrb/GT-final_test.csv", "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *rows)


def caltech101(root: Path, patch: Patch) -> None:
    for kind in ("BACKGROUND_Google", "accordion", "Leopards", "sea_horse"):
        for i in range(1, 6):
            photo(root / f"caltech101/101_ObjectCategories/{kind}/image_{i:04d}.jpg")


def caltech256(root: Path, patch: Patch) -> None:
    for label, kind in enumerate(("ak47", "american-flag", "backpack"), 1):
        for i in range(1, 6):
            photo(root / f"caltech256/256_ObjectCategories/{label:03d}.{kind}/{label:03d}_{i:04d}.jpg")
        text(root / f"caltech256/256_ObjectCategories/{label:03d}.{kind}/RENAME2", "#")


def places365(root: Path, patch: Patch) -> None:
    """The small images; every file that torchvision knows by checksum is made."""
    from torchvision.datasets import Places365

    kinds = ("/a/airfield", "/b/beach", "/c/cabin/outdoor")
    text(root / "categories_places365.txt", *(f"{kind} {i}" for i, kind in enumerate(kinds)))
    train = [f"{kind}/{i:08d}.jpg" for kind in kinds for i in (1, 2)]
    text(root / "places365_train_standard.txt", *(f"{name} {i // 2}" for i, name in enumerate(train)))
    held = [f"Places365_val_{i:08d}.jpg" for i in range(3)]
    text(root / "places365_val.txt", *(f"{name} {i}" for i, name in enumerate(held)))
    for name in train:
        photo(root / f"data_256_standard{name}")
    for name in held:
        photo(root / "val_256" / name)
    lists = {"train-standard": "places365_train_standard.txt", "val": "places365_val.txt"}
    patch(Places365, "_CATEGORIES_META", ("categories_places365.txt", md5(root / "categories_places365.txt")))
    patch(Places365, "_FILE_LIST_META", {split: (name, md5(root / name)) for split, name in lists.items()})


def inaturalist(root: Path, patch: Patch) -> None:
    kinds = ("00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
             "00001_Animalia_Arthropoda_Arachnida_Araneae_Agelenidae_Eratigena_duellica")  # fmt: skip
    for version, count in (("2021_train_mini", 2), ("2021_valid", 1)):
        for kind in kinds:
            for i in range(count):
                photo(root / version / kind / f"{version}{i}.jpg")


def inaturalist2019(root: Path, patch: Patch) -> None:
    for number, kind in enumerate(("Amphibians/1", "Amphibians/0", "Birds/2")):
        for i in range(5):
            photo(root / f"2019/{kind}/{number}{i}.jpg")


def imagenette(root: Path, patch: Patch) -> None:
    for split, count in (("train", 2), ("val", 1)):
        for wnid in ("n01440764", "n02102040", "n03394916"):
            for i in range(count):
                path = root / f"imagenette2-160/{split}/{wnid}/{wnid}_{split}{i}.JPEG"
                photo(path)


def imagenet(root: Path, patch: Patch) -> None:
    import torch

    wnids = {"n01440764": ("tench", "Tinca tinca"), "n02012849": ("crane",), "n03126707": ("crane",)}
    torch.save((wnids, []), root / "meta.bin")
    for split, count in (("train", 2), ("val", 1)):
        for wnid in wnids:
            for i in range(count):
                photo(root / f"{split}/{wnid}/{wnid}_{split}{i}.JPEG")


def country211(root: Path, patch: Patch) -> None:
    for split in ("train", "valid", "test"):
        for kind in ("AD", "AE", "ZW"):
            photo(root / f"country211/{split}/{kind}/{split}.jpg")


def rendered_sst2(root: Path, patch: Patch) -> None:
    for split in ("train", "valid", "test"):
        for kind in ("negative", "positive"):
            photo(root / f"rendered-sst2/{split}/{kind}/{split}.png")


def clevr(root: Path, patch: Patch) -> None:
    for split in ("train", "val"):
        base = root / "clevr/CLEVR_v1.0"
        scenes = [{"image_filename": f"CLEVR_{split}_{i:06d}.png", "objects": [{}] * (3 + i % 3)} for i in range(6)]
        text(base / f"scenes/CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))
        for scene in scenes:
            photo(base / f"images/{split}/{scene['image_filename']}")


def omniglot(root: Path, patch: Patch) -> None:
    from torchvision.datasets import Omniglot

    base = root / "omniglot-py"
    for character in ("Greek/character01", "Greek/character02", "Latin/character01"):
        for i in range(4):
            photo(base / f"images_background/{character}/{i}.png")
    with zipfile.ZipFile(base / "images_background.zip", "w") as archive:
        archive.writestr("images_background/", "")
    patch(Omniglot, "zips_md5", Omniglot.zips_md5 | {"images_background": md5(base / "images_background.zip")})


def lfw(root: Path, patch: Patch) -> None:
    from torchvision.datasets import LFWPeople

    base, people = root / "lfw-py", ("Ann_Veneman", "Bob_Dole", "Zico")
    text(base / "lfw-names.txt", *(f"{name}\t3" for name in people))
    text(base / "people.txt", "1", "3", *(f"{name}\t3" for name in people))
    for name in people:
        for i in range(1, 4):
            photo(base / f"lfw_funneled/{name}/{name}_{i:04d}.jpg")
    (base / "lfw-funneled.tgz").write_bytes(gzip.compress(io.BytesIO(b"").read()))
    patch(LFWPeople, "file_dict", {"funneled": ("lfw_funneled", "lfw-funneled.tgz", md5(base / "lfw-funneled.tgz"))})
    patch(LFWPeople, "checksums", {name: md5(base / name) for name in ("people.txt", "lfw-names.txt")})


SAYS = {"test_fraction": 0.2}
# A set, how it is made, what its entry says besides, its classes, and images of each split.
MADE: list[tuple[str, Callable[[Path, Patch], None], dict, list[str], dict[str, int]]] = [
    ("CIFAR10", cifar10, {}, ["airplane", "automobile", "truck"], {"train": 15, "test": 3}),
    ("Caltech101", caltech101, SAYS, ["Leopards", "accordion", "sea horse"], {"train": 12, "test": 3}),
    ("Caltech256", caltech256, SAYS, ["ak47", "american-flag", "backpack"], {"train": 12, "test": 3}),
    ("CLEVRClassification", clevr, {}, ["3", "4", "5"], {"train": 6, "test": 6}),
    ("Country211", country211, {}, ["AD", "AE", "ZW"], {"train": 3, "val": 3, "test": 3}),
    ("DTD", dtd, {"arguments": {"partition": 2}}, ["banded", "dotted", "woven"], {"train": 6, "val": 3, "test": 3}),
    ("EMNIST", emnist, {"arguments": {"split": "letters"}}, ["a", "b", "c"], {"train": 6, "test": 3}),
    ("EuroSAT", eurosat, SAYS, ["AnnualCrop", "Forest", "SeaLake"], {"train": 12, "test": 3}),
    ("FER2013", fer2013, {}, ["0", "1", "2"], {"train": 6, "test": 3}),
    ("FGVCAircraft", aircraft, {"splits": {"train": "train", "val": "val", "test": "test"}}, ["707-320", "727-200", "A310"],
     {"train": 6, "val": 3, "test": 3}),
    ("FGVCAircraft", aircraft, {"splits": {"train": "trainval", "test": "test"}}, ["707-320", "727-200", "A310"],
     {"train": 9, "test": 3}),
    ("Flowers102", flowers102, {}, ["pink primrose", "hard-leaved pocket orchid", "canterbury bells"],
     {"train": 3, "val": 3, "test": 3}),
    ("Food101", food101, {}, ["apple pie", "hot dog", "waffles"], {"train": 6, "test": 3}),
    ("GTSRB", gtsrb, {}, ["0", "1", "2"], {"train": 6, "test": 3}),
    ("ImageNet", imagenet, {}, ["tench", "crane (1)", "crane (2)"], {"train": 6, "test": 3}),
    ("Imagenette", imagenette, {"arguments": {"size": "160px"}}, ["tench", "English springer", "French horn"],
     {"train": 6, "test": 3}),
    ("INaturalist", inaturalist, {"splits": {"train": "2021_train_mini", "test": "2021_valid"}},
     ["Lumbricus terrestris", "Eratigena duellica"], {"train": 4, "test": 2}),
    ("INaturalist", inaturalist2019, {"splits": {"train": 2019}, "test_fraction": 0.2},
     ["Amphibians/0", "Amphibians/1", "Birds/2"],
     {"train": 12, "test": 3}),
    ("LFWPeople", lfw, {"splits": {"train": "10fold"}, "test_fraction": 0.3}, ["Ann Veneman", "Bob Dole", "Zico"],
     {"train": 6, "test": 3}),
    ("MNIST", mnist, {}, ["1 - one", "2 - two", "3 - three"], {"train": 6, "test": 3}),
    ("Omniglot", omniglot, {"splits": {"train": "background"}, "test_fraction": 0.25},
     ["Greek/character01", "Greek/character02", "Latin/character01"], {"train": 9, "test": 3}),
    ("OxfordIIITPet", pets, {}, ["Abyssinian", "American Bulldog", "Bengal"], {"train": 6, "test": 3}),
    ("OxfordIIITPet", pets, {"arguments": {"target_types": "binary-category"}}, ["Cat", "Dog"], {"train": 6, "test": 3}),
    ("PCAM", pcam, {}, ["0", "1"], {"train": 4, "val": 4, "test": 4}),
    ("Places365", places365, {"arguments": {"small": True}, "splits": {"train": "train-standard", "test": "val"}},
     ["airfield", "beach", "cabin/outdoor"], {"train": 6, "test": 3}),
    ("RenderedSST2", rendered_sst2, {}, ["negative", "positive"], {"train": 2, "val": 2, "test": 2}),
    ("SEMEION", semeion, {"test_fraction": 0.3}, ["0", "1", "2"], {"train": 6, "test": 3}),
    ("STL10", stl10, {}, ["airplane", "bird", "car"], {"train": 6, "test": 3}),
    ("StanfordCars", cars, {}, ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"],
     {"train": 6, "test": 3}),
    ("SUN397", sun397, SAYS, ["abbey", "airport terminal", "apartment building/outdoor"], {"train": 12, "test": 3}),
    ("SVHN", svhn, {}, ["0", "1", "2"], {"train": 6, "test": 3}),
    ("USPS", usps, {}, ["0", "1", "2"], {"train": 6, "test": 3}),
]  # fmt: skip
