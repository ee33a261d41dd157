"""What the app knows, without its widgets: the photos, what the network said, the cut-out."""

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unetlib.app import browser
from unetlib.app.viewer import Viewer
from unetlib.cutting import FILES, Cut, Recipe, cut_photo
from unetlib.data.photo import Photo, encode
from unetlib.matting import CutOut, cut_out
from unetlib.paths import resolve
from unetlib.predict import Predictor, resize_soft

WORKING_SIZES = (96, 128, 160, 192, 256, 320, 384, 512)
MAX_PHOTOS = 24  # that a visitor may have in the app, as the files they came in


class Session:
    """One photo at a time, and the files of those that were uploaded.

    Of large arrays it keeps the present photo and its latest cut-out. `preview` is the longer side
    of the pictures that are shown, in pixels.
    """

    def __init__(self, predictor: Predictor, preview: int, examples: dict[str, Any]):
        self.predictor, self.preview = predictor, preview
        self.sources = {name: browser.open_photo(photo, name) for name, photo in examples.items()}
        self.uploads: dict[str, bytes] = {}
        self.photo: Photo | None = None
        self.viewer: Viewer | None = None
        self.name, self.milliseconds = "", 0.0
        self._cutout: tuple[dict, CutOut] | None = None  # with the settings it was made with

    @property
    def image(self) -> np.ndarray | None:
        """The photo, uint8 (H, W, 3)."""
        return self.photo and self.photo.rgb

    @property
    def soft(self) -> np.ndarray | None:
        """What the network said, at the photo's size: float32 (H, W) in [0, 1]."""
        return self.viewer and resize_soft(self.viewer.answer, *self.photo.rgb.shape[:2])

    def open(self, name: str) -> Photo:
        """An upload or an example."""
        content = self.uploads.get(name)
        return self.sources[name] if content is None else browser.open_photo(content, name)

    def show(self, photo: Photo, name: str) -> None:
        self.photo, self.name, self.viewer, self._cutout = photo, name, None, None

    def predict(self, size: Any) -> None:
        """Run the network; the point that is looked at stays for the same photo."""
        start = time.perf_counter()
        answer = self.predictor.predict_small([self.photo.rgb], size)[0]
        self.milliseconds = 1000 * (time.perf_counter() - start)
        point = self.viewer and self.viewer.point
        self.viewer, self._cutout = Viewer(self.photo, answer, self.preview, point), None

    def add(self, name: str, content: bytes) -> tuple[Photo, str, bool]:
        """Keep an uploaded file: (photo, name it is kept under, whether it is new). Raises
        ImageError for what is no photo, ValueError for one too many."""
        for known, kept in self.uploads.items():
            if kept == content:
                return browser.open_photo(content, name), known, False
        if len(self.uploads) >= MAX_PHOTOS:
            raise ValueError(
                f"{name}: there are {MAX_PHOTOS} photos already, as many as the app keeps. "
                "Remove them first, or use the command unetlib cut"
            )
        photo, name = browser.open_photo(content, name), browser.free_name(name, self.uploads)
        self.uploads[name] = content
        return photo, name, True

    def cut(self, recipe: Recipe) -> Cut:
        """The photo cut out at its own size. Raises RuntimeError while there is none."""
        if self.photo is None or self.viewer is None:
            raise RuntimeError("there is no photo yet: upload one or choose an example")
        edge = recipe.edge()
        if self._cutout is None or self._cutout[0] != edge:
            self._cutout = None  # two of them would not fit for a large photo
            made = cut_out(self.photo.rgb, self.soft, own_alpha=self.photo.alpha, **edge)
            self._cutout = edge, made
        return Cut(self.photo, self._cutout[1], recipe)

    def make_file(self, kind: str, recipe: Recipe) -> tuple[str, bytes]:
        """(name, content) of one of page.DOWNLOADS but "zip"."""
        cut, stem = self.cut(recipe), _stem(self.name)
        if kind == "transparent":
            return f"{stem}_transparent.png", encode(cut.cutout.rgba, "png", self.photo)
        return f"{stem}_{kind}.png", cut.encode(kind)

    def make_zip(self, recipe: Recipe, say: Callable[[str], None]) -> tuple[str, bytes]:
        """(name, content) of a file with the cut-outs and masks of every uploaded photo."""
        file, stems = io.BytesIO(), []
        with zipfile.ZipFile(file, "w") as archive:
            for number, (name, content) in enumerate(self.uploads.items(), 1):
                say(f"Photo {number} of {len(self.uploads)}: {name} …")
                stems.append(browser.free_name(_stem(name), stems))
                cut = cut_photo(browser.open_photo(content, name), self.predictor, recipe)
                for kind in FILES:
                    archive.writestr(f"{stems[-1]}_{kind}.png", cut.encode(kind))
        return "cutouts.zip", file.getvalue()


def find_choices(predictor: Predictor, size: Any, outputs: Any, checkpoint: Any) -> dict[str, Any]:
    """What can be chosen: (label, value) pairs of "sizes", "networks", "videos"; "size" is the
    value at the start. See `build_app` for the arguments."""
    height, width = predictor.preprocess.size
    size = size or (height if height == width else (height, width))
    sizes = [(f"{s} px", s) for s in sorted({*WORKING_SIZES, size} - {(height, width)})]
    if isinstance(size, tuple):  # trained on oblong photos
        sizes.insert(0, (f"{height}×{width} px", size))

    def find(*patterns: str) -> list[tuple[str, Path]]:
        files = sorted(f for p in patterns if outputs for f in resolve(outputs).glob(p))
        return [(f.name, f) for f in files if f != given and f.stem != "training_state"]

    given = Path(checkpoint)
    networks = [(given.name or predictor.networks[0].name, predictor)]
    networks += find("checkpoints/*.pth", "checkpoints/*.onnx")
    videos = find("videos/*.mp4", "videos/*.webm")
    return {"sizes": sizes, "size": size, "networks": networks, "videos": videos}


def _stem(name: str) -> str:
    return Path(name.replace("\\", "/")).stem or "photo"
