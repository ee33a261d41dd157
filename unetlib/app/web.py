"""The page in the browser: photos in, cut-outs out. `server` serves it, notebooks show it."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from unetlib.cutting import Cut, Recipe, cut_photo, read_background, to_srgb
from unetlib.data import images
from unetlib.errors import need, unknown
from unetlib.matting import cut_out
from unetlib.paths import resolve
from unetlib.predict import Predictor
from unetlib.pretrained import NETWORKS

KEEP_SECONDS = 1800  # seconds that files are kept
SHOWN, PIECE = 1600, 120  # pixels: longer side of what is shown, side of the enlarged edge
EDGES = [("follow the photo", "guided"), ("as it is", "none"), ("hair (slow)", "closed-form")]
ABOUT = "Choose photos, look at the edge, save the cut-outs. Photos are deleted after half an hour."


class Networks:
    """The networks that are on this machine, by name: `default`, which may be a file, the shipped
    and downloaded ones, and your own. Nothing is downloaded but the default. `device`, `threads`:
    as of `Predictor`."""

    def __init__(self, default: str = "people", device: str = "auto", threads: int | None = None):
        self.default, self.loading = Path(default).name, Lock()
        self.files = {self.default: default}
        for name, one in NETWORKS.items():
            whole = one.path.is_file() and one.bytes in (0, one.path.stat().st_size)
            if whole and one.path.suffix == ".onnx":
                self.files[name] = name
        for path in resolve("outputs/checkpoints").glob("*.onnx"):
            self.files.setdefault(path.name, str(path))
        self.predictor = lru_cache(4)(lambda file: Predictor(file, device, threads=threads))

    def load(self, name: str | None = None) -> Predictor:
        """The `Predictor` of a name, None: the default; each is loaded once. Raises ValueError for
        a name that is not here, and what `Predictor` raises."""
        name = name or self.default
        if name not in self.files:
            raise ValueError(unknown("network here", name, self.files))
        with self.loading:
            return self.predictor(self.files[name])


@lru_cache(8)
def _predicted(path: str, network: Predictor, size: int | None):
    """An upload as (photo, soft mask), of at most SHOWN pixels: what takes long."""
    photo = images.open_photo(path)
    shape = images.fit_within(photo.rgb.shape[:2], SHOWN)
    alpha = photo.alpha if photo.alpha is None else images.resize(photo.alpha, shape)
    photo = to_srgb(replace(photo, rgb=images.resize(photo.rgb, shape), alpha=alpha))
    return photo, network.predict(photo.rgb, size)


def read_recipe(size, threshold, refine, backdrop, color, behind) -> Recipe:
    """The page's settings as a `Recipe`; no file of this machine but `behind` is opened for it."""
    backdrop = {"colour": color, "picture": behind}.get(backdrop, backdrop)
    background = read_background(backdrop, files=backdrop == behind)
    return Recipe(threshold, refine, background=background, size=size or None)


def preview(path: str | None, network: Predictor, *settings):
    """What the page shows of a photo: (photo, cut-out), soft mask, piece of the edge, text.

    `settings`: of `read_recipe`. It works on a copy of SHOWN pixels; the files of the full size are
    made on request."""
    if not path:
        return None, None, None, ""
    recipe = read_recipe(*settings)
    photo, soft = _predicted(path, network, recipe.size)
    cut = Cut(photo, cut_out(photo.rgb, soft, own_alpha=photo.alpha, **recipe.edge()), recipe)
    picture, soft, share = cut.preview, cut.cutout.soft, np.mean(cut.cutout.binary > 0)
    # the piece with most of the edge
    edge = cv2.blur(np.float32((soft > 0.1) & (soft < 0.9)), (PIECE + 1, PIECE + 1))
    middle = np.unravel_index(edge.argmax(), edge.shape)
    y, x = (max(0, min(n - PIECE // 2, m - PIECE)) for n, m in zip(middle, edge.shape, strict=True))
    piece = picture[y : y + PIECE, x : x + PIECE].repeat(4, 0).repeat(4, 1)
    text = "{}×{} pixels, {:.0%} foreground. ".format(*images.image_size(path), share)
    text += f"{network.describe(recipe.size)}."
    if not share:
        text = f"**Nothing reaches the threshold:** the highest value is {soft.max():.2f}. {text}"
    return (photo.rgb, picture), np.uint8(np.rint(255 * soft)), piece, text


def make_files(folder: str, paths: list[str], network: Predictor, *settings) -> list[str]:
    """The three files of a photo at its full size, as of `unetlib cut`; of several as a zip."""
    cuts, files = Path(folder, "cut"), []
    for path in paths:
        stem = Path(path).stem
        while Path(cuts, f"{stem}_foreground.png").exists():
            stem += "_2"
        files += cut_photo(path, network, read_recipe(*settings)).save(cuts, stem)
    if len(paths) > 1:
        return [shutil.make_archive(f"{folder}/cutouts", "zip", cuts)]
    return [str(file) for file in files]


def build_page(
    network: "str | Networks" = "people",
    run: Callable = lambda function, *args: function(*args),
    upload_mb: float | None = None,
):
    """The page as `gradio.Blocks`. `network`: the one that is chosen at the start; the others that
    are here can be chosen too. `run(function, *args)` does what takes long, by default at once.
    `upload_mb`: a limit of whoever serves the page, which tells visitors of it. Raises what
    `Predictor` raises, and ImportError without Gradio."""
    need("gradio", extra="serve")
    networks = network if isinstance(network, Networks) else Networks(network)
    networks.load()  # what cannot be used is said here, not to the visitors
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    async def refuse_url(url: str, cache_dir: str):
        raise gr.Error("addresses are not opened: save the photo, and choose the file")

    gr.processing_utils.async_ssrf_protected_download = refuse_url  # nobody's requests from here

    videos = sorted(resolve("outputs").glob("**/videos/*.mp4"))
    skimage = find_spec("skimage")
    example = skimage and Path(skimage.origin).with_name("data") / "astronaut.png"
    examples = [("astronaut (example)", str(example))] if example else []
    kinds = {"file_types": ["image", *images.SUFFIXES], "height": 150}

    @contextmanager
    def shown_errors():  # as a line on the page, not as a traceback in a terminal
        try:
            yield
        except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
            text = re.sub(r"^(\w:)?[/\\][^:]*[/\\]", "", str(error))  # no folders of ours
            raise gr.Error(text or "out of memory", print_exception=False) from error

    def receive(paths):
        choices = [(Path(path).name, path) for path in paths or []] + examples
        return gr.Dropdown(choices, value=choices[0][1] if choices else None)

    def show(path, name, *rest):
        with shown_errors():
            return run(preview, path, networks.load(name), *rest)

    def make(paths, path, name, *rest):
        paths = paths or [path]
        if not any(paths):
            raise gr.Error("choose a photo first", print_exception=False)
        with shown_errors(), tempfile.TemporaryDirectory() as folder:  # Gradio copies the files
            files = run(make_files, folder, paths, networks.load(name), *rest)
            yield gr.File(files, visible=True)

    with gr.Blocks(title="Cut out people", delete_cache=(60, KEEP_SECONDS)) as page:
        gr.Markdown(f"# Cut out people\n{ABOUT}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                limit = f"{upload_mb or 0:g} MB and {images.MAX_PIXELS / 1e6:g} megapixels"
                label = "Your photos" + f", up to {limit} each" * bool(upload_mb)
                uploads = gr.File(label=label, file_count="multiple", **kinds)
                photo = gr.Dropdown(examples, label="Photo")
                threshold = gr.Slider(0.01, 0.99, 0.5, step=0.01, label="Threshold")
                refine = gr.Radio(EDGES, value="guided", label="Edge")
                backdrops = ["transparent", "colour", "picture", "blur", "grey"]
                backdrop = gr.Radio(backdrops, value="transparent", label="Background")
                color = gr.ColorPicker("#0a4678", label="Colour", visible=False)
                behind = gr.File(label="Picture", visible=False, **kinds)
                with gr.Accordion("More settings", open=False):
                    chosen = gr.Dropdown([*networks.files], label="Network")
                    size = gr.Slider(0, 512, 0, step=32, label="Working size, 0: as trained")
            with gr.Column(scale=3, min_width=320):
                shown = {"buttons": ["fullscreen"], "format": "jpeg"}  # the files are made below
                compare = gr.ImageSlider(label="Photo | cut-out", max_height=560, **shown)
                with gr.Row():
                    soft = gr.Image(label="Soft mask", height=240, **shown)
                    edge = gr.Image(label="Edge, enlarged", height=240, **shown | {"format": "png"})
                text = gr.Markdown()
                with gr.Row():
                    save = gr.Button("Make the three files", variant="primary")
                    save_all = gr.Button("All photos as a zip")
                made = gr.File(label="Click a size to save", visible=False)
        with gr.Accordion("Timelapse of a training", open=False, visible=bool(videos)):
            gr.Gallery(videos, label="Videos", interactive=False, preview=True, height=400)

        settings = [photo, chosen, size, threshold, refine, backdrop, color, behind]
        changes = [page.load, *(one.change for one in settings)]
        views = [compare, soft, edge, text]
        gr.on(changes, show, settings, views, trigger_mode="always_last")
        gr.on(changes, lambda: gr.File(visible=False), None, made, queue=False)
        uploads.change(receive, uploads, photo)
        backdrop.change(lambda g: gr.File(visible=g == "picture"), backdrop, behind)
        backdrop.change(lambda g: gr.ColorPicker(visible=g == "colour"), backdrop, color)
        save.click(lambda *args: (yield from make(None, *args)), settings, made)
        save_all.click(make, [uploads, *settings], made)
    return page
