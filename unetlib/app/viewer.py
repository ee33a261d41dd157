"""What the app shows of a photo: small pictures that keep up with a slider, a piece of the edge.

All of it is some hundred thousand pixels, however large the photo is.
"""

import cv2
import numpy as np

from unetlib.cutting import Recipe
from unetlib.data.images import fit_within, resize
from unetlib.data.photo import Photo
from unetlib.matting import chequerboard, composite, cut_out
from unetlib.predict import resize_soft

PIECE = 108, 144  # (H, W) of the enlarged piece in pixels of the photo
AROUND = 48  # pixels beyond the piece that are cut out with it: refinement looks at neighbours


def encode_jpeg(image: np.ndarray) -> bytes:
    """uint8 (H, W) or (H, W, 3) -> a JPEG file, for the screen."""
    image = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()


class Viewer:
    """A photo and the network's answer, ready to be shown with any recipe.

    `answer`: soft mask at the working size, float32 (h, w). `side`: longer side of the pictures in
    pixels. `point`: the middle of the enlarged piece as shares (x, y) of the photo; None for where
    most of the edge is.
    """

    def __init__(self, photo: Photo, answer: np.ndarray, side: int, point=None):
        self.photo, self.answer = photo, answer
        self.shape = photo.rgb.shape[:2]
        small = fit_within(self.shape, side)
        self.scale = max(small) / max(self.shape)
        self.rgb, self.soft = resize(photo.rgb, small), resize_soft(answer, *small)
        self.alpha = None if photo.alpha is None else resize(photo.alpha, small)
        self.piece = tuple(min(n, length) for n, length in zip(PIECE, self.shape, strict=True))
        self.point = point or self._busiest()

    def _busiest(self) -> tuple[float, float]:
        edge = cv2.morphologyEx(self.soft, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        height, width = (max(1, round(n * self.scale)) for n in self.piece)
        near = cv2.blur(edge, (width, height), borderType=cv2.BORDER_CONSTANT)
        y, x = np.unravel_index(np.argmax(near), near.shape)
        return (x + 0.5) / near.shape[1], (y + 0.5) / near.shape[0]

    def frame(self, around: int = 0) -> tuple[slice, slice]:
        """(rows, columns) of the enlarged piece in the photo, and so many pixels around it."""
        found = []
        for n, length, middle in zip(self.shape, self.piece, self.point[::-1], strict=True):
            start = int(np.clip(round(middle * n - length / 2), 0, n - length))
            found.append(slice(max(0, start - around), min(n, start + length + around)))
        return tuple(found)

    def marked(self) -> bytes:
        """The small photo with a frame around the enlarged piece, a JPEG."""
        picture, line = self.rgb.copy(), max(1, round(max(self.rgb.shape) / 200))
        rows, cols = self.frame()
        ends = [[cols.start, rows.start], [cols.stop, rows.stop]]
        (left, top), (right, bottom) = np.rint(np.array(ends) * self.scale).astype(int).tolist()
        for grown, color in ((line, (255, 255, 255)), (0, (29, 78, 216))):
            box = (left - grown, top - grown), (right + grown, bottom + grown)
            cv2.rectangle(picture, *box, color, line)
        return encode_jpeg(picture)

    def pictures(self, recipe: Recipe) -> tuple[dict[str, bytes], float]:
        """JPEGs of "cutout", "soft" and "edge", and the share of the photo that is foreground."""
        widths = {name: getattr(recipe, name) * self.scale for name in ("grow", "feather")}
        cut = cut_out(self.rgb, self.soft, own_alpha=self.alpha, **recipe.edge() | widths)
        clear = recipe.background.kind == "transparent"
        if clear:
            behind = chequerboard(*self.soft.shape, max(6, max(self.soft.shape) // 60))
        else:
            behind = recipe.background.behind(cut.rgba, self.rgb)
        shown = {
            "cutout": composite(cut.rgba, behind),
            "soft": np.rint(cut.soft * 255).astype(np.uint8),
            "edge": self._enlarged(recipe, cut.rgba[..., 3], None if clear else behind),
        }
        jpegs = {kind: encode_jpeg(picture) for kind, picture in shown.items()}
        return jpegs, cut.foreground_share

    def _enlarged(self, recipe: Recipe, whole: np.ndarray, behind) -> np.ndarray:
        """The piece of the edge, pixel by pixel as it will be saved, uint8 (H, W, 3).

        `whole`: alpha of the small cut-out, which knows the components and holes that cannot be
        seen in a piece. `behind`: what lies behind that one, None for nothing.
        """
        frame, inner = self.frame(AROUND), self.frame()
        rgb = np.ascontiguousarray(self.photo.rgb[frame])
        alpha = None if self.photo.alpha is None else self.photo.alpha[frame]
        edge = recipe.edge() | {"largest": False, "fill_holes": False}
        rgba = cut_out(rgb, self._window(self.answer, frame), own_alpha=alpha, **edge).rgba
        if recipe.largest or recipe.fill_holes:
            known = self._window(whole, frame)
            rgba[known == 0] = 0
            filled = (known == 255) & (rgba[..., 3] == 0)
            rgba[filled] = np.dstack([rgb, known])[filled]
        shift = [
            slice(i.start - f.start, i.stop - f.start) for i, f in zip(inner, frame, strict=True)
        ]
        rgba = rgba[*shift]
        if behind is None:
            behind = chequerboard(*self.piece, max(4, self.piece[1] // 16))
        elif recipe.background.kind in ("grey", "mix"):  # as sharp as the photo
            behind = recipe.background.behind(rgba, self.photo.rgb[inner])
        elif isinstance(behind, np.ndarray):
            behind = self._window(behind, inner)
        return composite(rgba, behind)

    def _window(self, small: np.ndarray, frame: tuple[slice, slice]) -> np.ndarray:
        """What lies in a frame of the photo, out of a smaller picture of all of it, enlarged."""
        fy, fx = small.shape[0] / self.shape[0], small.shape[1] / self.shape[1]
        rows, cols = frame
        shift = (cols.start + 0.5) * fx - 0.5, (rows.start + 0.5) * fy - 0.5  # of pixel centres
        matrix = np.float64([[fx, 0, shift[0]], [0, fy, shift[1]]])
        size = cols.stop - cols.start, rows.stop - rows.start
        how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        window = cv2.warpAffine(small, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
        return np.clip(window, 0, 1) if window.dtype == np.float32 else window
