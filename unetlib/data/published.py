"""Published sets: a table of layouts, and PUBLISHED, which opens each by its name."""

import shutil
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

from unetlib.data import coco, kaggle, supervisely
from unetlib.data.download import DownloadError, fetch
from unetlib.data.layouts import Layout, Row, below, levels
from unetlib.data.pairs import Found, Skipped

# what collections of saliency sets call these folders
_IMAGES, _MASKS = "images|imgs|image|img", "ground_truth_mask|gt|masks|mask"
_CUHK = "https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets"
_DUTS = "http://saliencydetection.net/duts"
_PET_LISTS = (("train", "trainval"), ("val", "test"))
_SPECIES = {"1": "cat", "2": "dog"}
_PENN = "https://www.cis.upenn.edu/~jshi/ped_html"


class _Pet(Layout):
    """Divided by the publisher's lists; downloaded by torchvision, which knows the checksums."""

    def open(self, root=None, *, download: bool | None = None) -> Found:
        found = super().open(root, download=download)
        lists = {side: found.root / "annotations" / f"{name}.txt" for side, name in _PET_LISTS}
        if not all(file.is_file() for file in lists.values()):
            return found
        pairs = {pair.id: pair for pair in found.sides[""]}
        named = {skip.path.stem for skip in found.skipped}
        found.sides = {"train": [], "val": []}
        for side, file in lists.items():
            for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
                if not line.strip() or line.startswith("#"):
                    continue
                name, *facts = line.split()
                species = _SPECIES.get("".join(facts[1:2]))
                if name in pairs and species:
                    tags = (species, name.rpartition("_")[0].lower())
                    found.sides[side].append(replace(pairs.pop(name), tags=tags))
                elif name not in named:
                    why = "has no photo, or is there twice"
                    if not species:
                        why = "is not 'NAME CLASS SPECIES BREED'"
                    reason = f"line {number}, '{line.strip()}', {why}"
                    found.skipped.append(Skipped(file, reason, "skipped"))
        reason = "in neither of trainval.txt and test.txt"
        found.skipped += [Skipped(p.image, reason, "skipped") for p in pairs.values()]
        return found

    def fetch(self, folder: Path) -> None:
        if self.find(folder):
            return
        from torchvision.datasets import OxfordIIITPet

        part = folder / ".oxford-iiit-pet.part"  # ours: torchvision takes half a folder for whole
        base = part / "oxford-iiit-pet"
        for url, creates in self.urls.items():
            fetch(url, base / Path(url).name)
            shutil.rmtree(base / creates, ignore_errors=True)
        try:
            OxfordIIITPet(part, download=True)
            base.replace(folder / base.name)
            part.rmdir()
        except (OSError, RuntimeError, EOFError, tarfile.TarError, zlib.error) as error:
            raise DownloadError(
                f"{self.title} cannot be unpacked in {base}: {error}. Delete {part} and try again"
            ) from error


# Their publishers state no checksums, and none are made up here: a download is verified by the
# length that the server announces, the CRC-32 of every file in the archive and the count of files.
# fmt: off
LAYOUTS = {
    "pennfudan": Layout(
        "PennFudanPed",
        # Wang, Shi, Song, Shen: Object Detection Combining Recognition and Segmentation, ACCV 2007
        _PENN + "/",
        (Row("", "PNGImages", "PedMasks", 170),),
        urls={f"{_PENN}/PennFudanPed.zip": "PNGImages"}, size="54 MB",
        telling="PNGImages", mask_suffix="_mask", mask_kind="labels",
    ),
    "duts": Layout(
        "DUTS",
        # Wang et al.: Learning to Detect Salient Objects with Image-level Supervision, CVPR 2017
        _DUTS + "/",
        (Row("train", "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", 10553),
         Row("val", "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", 5019)),
        home="duts", size="about 400 MB", telling="DUTS-TR|DUTS-TE",
        urls={f"{_DUTS}/download/DUTS-{side}.zip": f"DUTS-{side}" for side in ("TR", "TE")},
    ),
    "ecssd": Layout(
        "ECSSD",
        # Shi, Yan, Xu, Jia: Hierarchical Image Saliency Detection on Extended CSSD, TPAMI 2016
        f"{_CUHK}/dataset.html",
        (Row("", _IMAGES, _MASKS, 1000),),
        home="ecssd", size="about 70 MB", telling="ground_truth_mask",
        urls={f"{_CUHK}/data/ECSSD/{n}.zip": n for n in ("images", "ground_truth_mask")},
    ),
    "hku_is": Layout(
        "HKU-IS",
        # Li, Yu: Visual Saliency Based on Multiscale Deep Features, CVPR 2015
        "https://i.cs.hku.hk/~gbli/deep_saliency.html",
        (Row("", "imgs|" + _IMAGES, "gt|" + _MASKS, 4447),),
    ),
    "pascal_s": Layout(
        "PASCAL-S",
        # Li, Hou, Koch, Rehg, Yuille: The Secrets of Salient Object Segmentation, CVPR 2014
        "http://cbs.ic.gatech.edu/salobj/",
        (Row("", "datasets/imgs/pascal|imgs/pascal|" + _IMAGES,
             "datasets/masks/pascal|masks/pascal|" + _MASKS, 850),),
        telling="datasets/masks/pascal|masks/pascal",
        mask_kind="matte",  # the share of people who chose a thing
    ),
    "sod": Layout(
        "SOD",
        # Movahedi, Elder: Design and Perceptual Validation of Performance Measures for Salient
        # Object Segmentation, CVPR Workshops 2010
        "http://elderlab.yorku.ca/SOD/",
        (Row("", "imgs|" + _IMAGES, "gt|" + _MASKS, 300),),
    ),
    "p3m10k": Layout(
        "P3M-10k",
        # Li, Ma, Zhang, Tao: Privacy-Preserving Portrait Matting, ACM Multimedia 2021
        "https://github.com/JizhiziLi/P3M",
        (Row("train", "train/blurred_image", "train/mask", 9421),
         Row("val", "validation/P3M-500-P/blurred_image", "validation/P3M-500-P/mask", 500),
         Row("val", "validation/P3M-500-NP/original_image", "validation/P3M-500-NP/mask", 500)),
        mask_kind="matte", telling="train/blurred_image|validation/P3M-500-P|validation/P3M-500-NP",
    ),
    "pet": _Pet(
        "Oxford-IIIT-Pet",
        # Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012
        _OXFORD + "/",
        (Row("", "images", "annotations/trimaps", 7390),),
        urls={f"{_OXFORD}/data/{n}.tar.gz": n for n in ("images", "annotations")},
        size="about 800 MB", telling="annotations/trimaps", mask_kind="trimap",
    ),
    "supervisely": supervisely.LAYOUT,
}
# fmt: on

PUBLISHED = {name: layout.open for name, layout in LAYOUTS.items()}
PUBLISHED |= {"aisegment": kaggle.find, "coco": coco.find}
_TELL = {name: layout.tells for name, layout in LAYOUTS.items()}
_TELL |= {"aisegment": kaggle.fits, "coco": coco.fits}


def detect(root) -> str | None:
    """The name of the published set that is in a folder or, unless it has photos of one's own as
    `folders.find` reads them, up to two levels below it."""
    for level in levels(Path(root)):
        names = (name for folder in level for name, tells in _TELL.items() if tells(folder))
        found = next(names, None)
        if found or below(root, "images|cutouts|train/images|train/cutouts"):
            return found
    return None
