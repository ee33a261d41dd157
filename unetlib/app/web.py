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
from math import inf
from pathlib import Path
from threading import Lock

from unetlib.errors import hint, need
from unetlib.paths import resolve

KEPT = 1800  # seconds that files are kept
SHOWN, PIECE = 1600, 240  # pixels: longer side of what is shown, side of the enlarged edge
EDGES = [("follow the photo", "guided"), ("as it is", "none"), ("hair (slow)", "closed-form")]
ABOUT = "Choose photos, look at the edge, save the cut-outs. Photos are deleted after half an hour."


def within(source, megapixels: float):
    """`source`, a path or an open file, if by its header it has no more pixels than that. Raises
    TooLarge where it has, and what `load_image` raises."""
    from unetlib.data.images import TooLarge, opened

    with opened(source) as image:
        if image.width * image.height > 1e6 * megapixels:
            size = f"{image.width}×{image.height}"
            raise TooLarge(f"{size} is more than {megapixels:g} megapixels")
    return source


@lru_cache(4)
def _predictor(network, device: str = "auto", threads: int | None = None):
    from unetlib.predict import Predictor

    if isinstance(network, Predictor):
        return network
    return Predictor(network, device, threads=threads)


class Networks:
    """The networks that are on this machine, by name: `default`, which may be a file, the shipped
    and downloaded ones, and your own. Nothing is downloaded but the default. `device`, `threads`:
    as of `Predictor`."""

    def __init__(self, default: str = "people", device: str = "auto", threads: int | None = None):
        from unetlib.pretrained import NETWORKS

        self.default, self.loading = Path(default).name, Lock()
        self.device, self.threads = device, threads
        self.files = {self.default: default}
        for name, one in NETWORKS.items():
            whole = one.path.is_file() and one.bytes in (0, one.path.stat().st_size)
            if whole and one.path.suffix == ".onnx":
                self.files[name] = name
        for path in resolve("outputs/checkpoints").glob("*.onnx"):
            self.files.setdefault(path.name, str(path))

    def load(self, name: str | None = None):
        """The `Predictor` of a name, None: the default; each is loaded once. Raises ValueError for
        a name that is not here, and what `Predictor` raises."""
        name = name or self.default
        if name not in self.files:
            known = f"There are {', '.join(self.files)}"
            raise ValueError(f"network {name!r} is not here.{hint(name, self.files)} {known}")
        with self.loading:
            return _predictor(self.files[name], self.device, self.threads)


@lru_cache(8)
def _predicted(path: str, network, size: int | None, side: float):
    """An upload as (photo, soft mask), of at most `side` pixels: what takes long."""
    from unetlib.data.images import fit_within, open_photo, resize

    photo = open_photo(path)
    shape = fit_within(photo.rgb.shape[:2], side)
    alpha = photo.alpha if photo.alpha is None else resize(photo.alpha, shape)
    photo = replace(photo, rgb=resize(photo.rgb, shape), alpha=alpha)
    return photo, _predictor(network).predict(photo.rgb, size)


def cut_upload(side, path, network, size, threshold, refine, ground, color, behind):
    """A `Cut` with the page's settings, as `cut_photo` makes it of a photo of `side` pixels."""
    from unetlib.cutting import Cut, Recipe, read_background
    from unetlib.matting import cut_out

    photo, soft = _predicted(path, network, size or None, side)
    ground = {"colour": color, "picture": behind}.get(ground, ground)
    behind = read_background(ground, files=ground == behind)  # no other file of this machine
    recipe = Recipe(threshold, refine, background=behind)
    return Cut(photo, cut_out(photo.rgb, soft, own_alpha=photo.alpha, **recipe.edge()), recipe)


def preview(path: str | None, network, size: int, *settings):
    """What the page shows of a photo: (photo, cut-out), soft mask, piece of the edge, text.

    `network`: a `Predictor`, or what one is made of. It works on a copy of SHOWN pixels; the files
    of the full size are made on request."""
    import cv2
    import numpy as np

    from unetlib.data.images import image_size

    if not path:
        return None, None, None, ""
    cut = cut_upload(SHOWN, path, network, size, *settings)
    picture, soft, share = cut.shown, cut.cutout.soft, cut.cutout.foreground_share
    # the piece with most of the edge
    edge = cv2.blur(np.float32((soft > 0.1) & (soft < 0.9)), (PIECE + 1, PIECE + 1))
    middle = np.unravel_index(edge.argmax(), edge.shape)
    y, x = (max(0, min(n - PIECE // 2, m - PIECE)) for n, m in zip(middle, edge.shape, strict=True))
    piece = picture[y : y + PIECE, x : x + PIECE].repeat(2, 0).repeat(2, 1)
    text = "{}×{} pixels, {:.0%} foreground. ".format(*image_size(path), share)
    text += f"{_predictor(network).describe(size or None)}."
    if not share:
        text = f"**Nothing reaches the threshold:** the highest value is {soft.max():.2f}. {text}"
    return (cut.photo.rgb, picture), np.uint8(np.rint(255 * soft)), piece, text


def make_files(folder: str, paths: list[str], *settings) -> list[str]:
    """The three files of a photo at its full size, as of `unetlib cut`; of several as a zip."""
    cuts, files, stems = Path(folder, "cut"), [], [Path(path).stem for path in paths]
    cuts.mkdir(parents=True)
    for n, path in enumerate(paths):
        stem = f"{stems[n]}_{n + 1}" if stems[n] in stems[:n] else stems[n]
        files += cut_upload(inf, path, *settings).save(cuts, stem)
    if len(paths) > 1:
        return [shutil.make_archive(f"{folder}/cutouts", "zip", cuts)]
    return [str(file) for file in files]


def build_page(
    network: "str | Networks" = "people",
    run: Callable | None = None,
    upload_mb: float | None = None,
    megapixels: float = inf,
):
    """The page as `gradio.Blocks`. `network`: the one that is chosen at the start; the others that
    are here can be chosen too. `run(function, *args)` does what takes long, None: at once. Limits
    of a photo: `upload_mb` is said here, and held by who serves the page; `megapixels` is held
    here. Raises what `Predictor` raises, and ImportError without Gradio."""
    need("gradio", extra="serve")
    networks = network if isinstance(network, Networks) else Networks(network)
    networks.load()  # what cannot be used is said here, not to the visitors
    run = run or (lambda function, *args: function(*args))
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr
    from gradio.utils import get_upload_folder

    from unetlib.data.images import SUFFIXES

    videos = sorted(resolve("outputs").glob("**/videos/*.mp4"))
    skimage = find_spec("skimage")
    example = skimage and Path(skimage.origin).with_name("data") / "astronaut.png"
    examples = [("astronaut (example)", str(example))] if example else []
    kept = get_upload_folder()
    os.makedirs(kept, exist_ok=True)
    kinds = {"file_types": ["image", *SUFFIXES], "height": 150}

    @contextmanager
    def told(*paths):  # what goes wrong is one line on the page, and no traceback in the terminal
        try:
            for path in filter(None, paths):
                within(path, megapixels)
            if shutil.disk_usage(kept).free < 100e6:
                raise OSError("the disk of the machine that serves this page is full")
            yield
        except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
            text = re.sub(r"^\S+[/\\]", "", str(error))  # visitors know files without folders
            raise gr.Error(text or "out of memory", print_exception=False) from error

    def receive(paths):
        choices = [(Path(path).name, path) for path in paths or []] + examples
        return gr.Dropdown(choices, value=choices[0][1] if choices else None)

    def laid_behind(*rest):
        *_, ground, _, behind = rest
        return behind if ground == "picture" else None

    def show(path, name, *rest):
        with told(path, laid_behind(*rest)):
            return run(preview, path, networks.load(name), *rest)

    def make(paths, path, name, *rest):
        paths = paths or [path]
        own = tempfile.TemporaryDirectory()  # Gradio copies the files
        with told(*paths, laid_behind(*rest)), own as folder:
            files = run(make_files, folder, paths, networks.load(name), *rest)
            yield gr.File(files, visible=True)

    with gr.Blocks(title="Cut out people", delete_cache=(60, KEPT)) as page:
        gr.Markdown(f"# Cut out people\n{ABOUT}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                most = f", up to {upload_mb:g} MB and {megapixels:g} megapixels each"
                label = "Your photos" + (most if upload_mb else "")
                uploads = gr.File(label=label, file_count="multiple", **kinds)
                photo = gr.Dropdown(examples, label="Photo")
                threshold = gr.Slider(0.01, 0.99, 0.5, step=0.01, label="Threshold")
                refine = gr.Radio(EDGES, value="guided", label="Edge")
                grounds = ["transparent", "colour", "picture", "blur", "grey"]
                ground = gr.Radio(grounds, value="transparent", label="Background")
                color = gr.ColorPicker("#0a4678", label="Colour", visible=False)
                behind = gr.File(label="Picture", visible=False, **kinds)
                with gr.Accordion("More settings", open=False):
                    chosen = gr.Dropdown([*networks.files], label="Network")
                    size = gr.Slider(0, 512, 0, step=32, label="Working size, 0: as trained")
            with gr.Column(scale=3, min_width=320):
                compare = gr.ImageSlider(label="Photo | cut-out", max_height=560, format="jpeg")
                with gr.Row():
                    soft = gr.Image(label="Soft mask", height=240, buttons=["fullscreen"])
                    edge = gr.Image(label="Edge, enlarged", height=240, buttons=["fullscreen"])
                text = gr.Markdown()
                with gr.Row():
                    save = gr.Button("Make the three files", variant="primary")
                    save_all = gr.Button("All photos as a zip")
                made = gr.File(label="Click a size to save", visible=False)
        with gr.Accordion("Timelapse of a training", open=False, visible=bool(videos)):
            gr.Gallery(videos, label="Videos", interactive=False, preview=True, height=400)

        settings = [photo, chosen, size, threshold, refine, ground, color, behind]
        changes = [page.load, *(one.change for one in settings)]
        shown = [compare, soft, edge, text]
        gr.on(changes, show, settings, shown, trigger_mode="always_last")
        gr.on(changes, lambda: gr.File(visible=False), None, made, queue=False)
        uploads.change(receive, uploads, photo)
        ground.change(lambda g: gr.File(visible=g == "picture"), ground, behind)
        ground.change(lambda g: gr.ColorPicker(visible=g == "colour"), ground, color)
        save.click(lambda *args: (yield from make(None, *args)), settings, made)
        save_all.click(make, [uploads, *settings], made)
    return page
