"""CIFAR-100, unpacked or in its archive (`pel_core.ingest.cifar` reads it); fetched where it is absent."""

from pathlib import Path

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.data.roots import expand_root
from pel_core.ingest import cifar
from pel_core.ingest.content import Content
from pel_core.ingest.options import Rooted
from pel_core.ingest.sources.base import SAID, Source, register


@register
class Cifar(Source):
    """The archive of 60,000 images of 32 x 32 pixels, as torchvision knows it."""

    kind = "cifar"
    Options = Rooted

    def read(self, out: Path, check_images: str = "sample", problems: Problems | None = None) -> Content:
        """The balanced training images, and the test images."""
        read = self._find(Path(expand_root(self.given_root)))
        names = [str(name) for name in read("meta")["fine_label_names"]]
        content = Content(names, {})
        for split in ("train", "test"):
            record = read(split)
            images = np.asarray(record["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            content.add_images(split, images, np.array(record["fine_labels"]))
        content.train_counts[""] = np.bincount(content.splits["train"]["labels"], minlength=len(names)).tolist()
        return content

    def _find(self, root: Path) -> cifar.Reader:
        try:
            return cifar.find_cifar(root)
        except cifar.Absent as absent:
            from pel_core.ingest.fetch import fetch_cifar

            try:
                fetch_cifar(root)
            except PelError as error:
                where = f"'roots: {{{self.base}: FOLDER}}' in the configuration names its folder, {SAID} the folder above"
                by_hand = f"where there is a network, `python -m pel_core data fetch {self.base}` gets it"
                raise PelError(f"data set '{self.base}': {absent}; {where}; {by_hand} ({error})") from None
        return cifar.find_cifar(root)

    def fetch(self, mirror: str = "") -> None:
        """The archive, unpacked."""
        from pel_core.ingest.fetch import fetch_cifar

        fetch_cifar(Path(expand_root(self.given_root)), mirror)
