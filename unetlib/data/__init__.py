"""Photos and masks: files -> pairs -> train and val -> tensors."""

from unetlib.data.augment import PRESETS, build_augmentation
from unetlib.data.dataset import PairDataset, SeededSampler, default_workers, make_loaders
from unetlib.data.download import DownloadError, fetch, unpack_zip
from unetlib.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_PIXELS,
    ImageError,
    Preprocess,
    binarize,
    image_size,
    load_image,
    load_mask,
    resize,
    to_tensor,
)
from unetlib.data.pairs import (
    DataError,
    Pair,
    Skipped,
    Source,
    match_pairs,
    split_fraction,
    split_pairs,
)
from unetlib.data.sources import SOURCES, open_source

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAX_PIXELS",
    "PRESETS",
    "SOURCES",
    "DataError",
    "DownloadError",
    "ImageError",
    "Pair",
    "PairDataset",
    "Preprocess",
    "SeededSampler",
    "Skipped",
    "Source",
    "binarize",
    "build_augmentation",
    "default_workers",
    "fetch",
    "image_size",
    "load_image",
    "load_mask",
    "make_loaders",
    "match_pairs",
    "open_source",
    "resize",
    "split_fraction",
    "split_pairs",
    "to_tensor",
    "unpack_zip",
]
