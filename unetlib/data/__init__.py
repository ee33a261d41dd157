"""Photos and masks: files -> pairs -> train and val -> tensors."""

from importlib import import_module

# Fetched on first use. Worker processes that draw the synthetic set start without torch and
# Albumentations then, whose import takes longer than their share of the pictures.
_MODULES = {
    "augment": "PRESETS build_augmentation",
    "dataset": "PairDataset SeededSampler default_workers make_loaders",
    "download": "DownloadError fetch unpack_zip",
    "images": "MAX_PIXELS ImageError binarize image_size load_cutout load_image resize",
    "masks": "MASK_KINDS clean_cutout load_mask load_pair",
    "pairs": "DataError Pair Skipped Source match_pairs",
    "photo": "Photo encode open_photo read_photo",
    "preprocess": "IMAGENET_MEAN IMAGENET_STD Preprocess to_array to_tensor",
    "published": "PUBLISHED detect",
    "sources": "SOURCES open_settings open_source",
    "split": "split_fraction split_pairs",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
