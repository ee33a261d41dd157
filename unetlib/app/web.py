"""The web app: photos in, cut-outs out. `build_page` makes the page, `unetlib app` serves it."""

import io
import os
import shutil
import tempfile
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.errors import need
from unetlib.paths import resolve

PHOTO_MB, MEGAPIXELS, KEPT = 30, 50, 1800  # of a photo; seconds that files are kept
SHOWN, PIECE = 1600, 240  # pixels: longer side of what is shown, side of the enlarged edge
GROUNDS = ("transparent", "colour", "picture", "blur", "grey")
EDGES = [("follow the photo", "guided"), ("as it is", "none"), ("hair (slow)", "closed-form")]
ABOUT = """# Cut out people
Choose photos, look at the edge, save the cut-outs. Photos are deleted after half an hour."""


@click.command("app", cls=Command, short_help="The web page for cutting out photos.")
@click.option("--network", "--checkpoint", default="people", help="A name or a file [people].")
@click.option("--host", default="127.0.0.1", help="0.0.0.0 lets others in, without a password.")
@click.option("--port", type=click.IntRange(0, 65535), help="[a free one]")
@click.option("--browser/--no-browser", default=True, help="Open the page [yes].")
def app(network, host, port, browser) -> None:
    """Serve the page until Ctrl-C. Photos stay on this machine, for half an hour."""
    page = build_page(network)
    click.echo(f"network: {network}: {_predictor(network).describe()}")
    import gradio as gr

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # of this machine
    look = {"theme": gr.themes.Default(primary_hue="blue", **fonts), "footer_links": []}
    look["css"] = ".gradio-container {max-width: 1280px !important; margin: auto}"
    how = {"inbrowser": browser, "quiet": True, "show_error": True, "prevent_thread_lock": True}
    how |= {"server_name": host, "server_port": port or None, "max_file_size": f"{PHOTO_MB}mb"}
    address = page.launch(ssr_mode=False, **how, **look)[1]
    click.echo(f"The app: {address} (Ctrl-C ends it)")
    page.block_thread()


@lru_cache(4)
def _predictor(network: str):
    from unetlib.predict import Predictor

    return Predictor(network)


@lru_cache(4)
def _photo(path: str):
    """An uploaded file, or an example. Raises ImageError."""
    from unetlib.data.images import ImageError, image_size, open_photo

    file = io.BytesIO(Path(path).read_bytes())
    file.name = Path(path).name  # errors name it
    width, height = image_size(file)
    if width * height > MEGAPIXELS * 1e6:
        raise ImageError(f"{file.name}: {width}×{height} is more than {MEGAPIXELS} megapixels")
    return open_photo(file)


@lru_cache(64)
def _soft(path: str, network: str, size: int | None):
    """What the network says, at its working size: it runs for another photo, network or size."""
    return _predictor(network).predict_small([_photo(path).rgb], size)[0]


def _recipe(size, threshold, refine, largest, holes, grow, feather, ground, color, behind, blur):
    from unetlib.cutting import Background, Recipe

    if ground == "picture":
        ground = Background(behind)
    ground = {"colour": color, "blur": f"blur:{blur / 100}"}.get(ground, ground)
    return Recipe(threshold, refine, largest, holes, grow, feather, ground, size=size or None)


def preview(path: str, network: str, *settings):
    """What the page shows of a photo: (photo, cut-out), soft mask, piece of the edge, text.

    It works on a copy of SHOWN pixels; the files of the full size are made on request.
    """
    import cv2
    import numpy as np

    from unetlib.cutting import Cut
    from unetlib.data.images import fit_within, resize
    from unetlib.matting import cut_out
    from unetlib.predict import resize_soft

    recipe, photo = _recipe(*settings), _photo(path)
    soft, shape = _soft(path, network, recipe.size), photo.rgb.shape[:2]
    size = fit_within(shape, SHOWN)
    scale = size[1] / shape[1]
    recipe = replace(recipe, grow=recipe.grow * scale, feather=recipe.feather * scale)
    rgb, alpha = (
        array if array is None else resize(array, size) for array in (photo.rgb, photo.alpha)
    )
    result = cut_out(rgb, resize_soft(soft, *size), own_alpha=alpha, **recipe.edge())
    picture = Cut(replace(photo, rgb=rgb), result, recipe).shown
    # the piece with most of the edge
    edge = np.float32((result.soft > 0.1) & (result.soft < 0.9))
    middle = np.unravel_index(cv2.blur(edge, (PIECE + 1, PIECE + 1)).argmax(), edge.shape)
    top, left = (max(0, min(n - PIECE // 2, m - PIECE)) for n, m in zip(middle, size, strict=True))
    piece = picture[top : top + PIECE, left : left + PIECE].repeat(2, 0).repeat(2, 1)
    text = f"{shape[1]}×{shape[0]} pixels, {result.foreground_share:.0%} foreground. "
    text += f"{_predictor(network).describe(recipe.size)}."
    if not result.binary.any():
        text = f"**Nothing reaches the threshold:** the highest value is {soft.max():.2f}. {text}"
    return (rgb, picture), (result.soft * 255).round().astype(np.uint8), piece, text


def make_files(paths: list[str], network: str, *settings) -> list[str]:
    """The three files of a photo at its full size, as of `unetlib cut`; of several as a zip."""
    from gradio.utils import get_upload_folder

    from unetlib.cutting import cut_photo

    folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))  # what lies there is deleted in time
    recipe, files, stems = _recipe(*settings), [], [Path(path).stem for path in paths]
    for n, path in enumerate(paths):
        stem = f"{stems[n]}_{n + 1}" if stems[n] in stems[:n] else stems[n]
        files += cut_photo(_photo(path), _predictor(network), recipe).save(folder / "cut", stem)
    if len(paths) > 1:
        return [shutil.make_archive(f"{folder}/cutouts", "zip", folder / "cut")]
    return [str(file) for file in files]


def build_page(network: str = "people"):
    """The page as `gradio.Blocks`. `network`: the one that is chosen at the start; the others that
    are here can be chosen too. Raises what `Predictor` raises, and ImportError without Gradio."""
    need("gradio", extra="app")
    _predictor(network)  # what cannot be used is said here, not to the visitors
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    from unetlib.pretrained import NETWORKS

    here = [n for n, one in NETWORKS.items() if one.path.suffix == ".onnx" and one.path.is_file()]
    own = map(str, resolve("outputs/checkpoints").glob("*.onnx"))
    networks = list(dict.fromkeys([network, *here, *own]))
    videos = sorted(resolve("outputs").glob("**/videos/*.mp4"))
    films = [(f"{video.parent.parent.name}: {video.name}", str(video)) for video in videos]
    gr.set_static_paths([video.parent for video in videos])
    found, examples = find_spec("skimage"), []
    if found:
        files = [Path(found.origin).with_name("data") / f"{n}.png" for n in ("astronaut", "camera")]
        examples = [(f"{one.stem} (example)", str(one)) for one in files if one.is_file()]

    def receive(paths):
        choices = []
        for path in paths or []:
            try:
                choices += [(Path(path).name, path)] if _photo(path) else []
            except (ValueError, OSError) as error:
                gr.Warning(str(error), title="Not used")
        choices += examples
        return gr.Dropdown(choices=choices, value=choices[0][1] if choices else None)

    with gr.Blocks(
        title="Cut out people", analytics_enabled=False, delete_cache=(60, KEPT)
    ) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                several = {"file_count": "multiple", "file_types": ["image"], "height": 150}
                uploads = gr.File(label=f"Your photos, up to {PHOTO_MB} MB each", **several)
                photo = gr.Dropdown(
                    examples, value=examples[0][1] if examples else None, label="Photo"
                )
                threshold = gr.Slider(0.01, 0.99, 0.5, step=0.01, label="Threshold")
                refine = gr.Radio(EDGES, value="guided", label="Edge")
                ground = gr.Radio(GROUNDS, value="transparent", label="Background")
                color = gr.ColorPicker("#0a4678", label="Colour", visible=False)
                behind = gr.Image(label="Picture", height=160, sources=["upload"], visible=False)
                blur = gr.Slider(0.5, 10, 3, step=0.5, label="Blur, % of the side", visible=False)
                with gr.Accordion("More settings", open=False):
                    chosen = gr.Dropdown(networks, value=network, label="Network")
                    size = gr.Slider(0, 512, 0, step=32, label="Working size, 0: as trained")
                    grow = gr.Slider(-10, 10, 0, step=0.5, label="Grow or shrink, in pixels")
                    feather = gr.Slider(0, 20, 0, step=0.5, label="Soft edge, in pixels")
                    largest = gr.Checkbox(label="Largest piece only")
                    holes = gr.Checkbox(label="Fill holes")
            with gr.Column(scale=3, min_width=320):
                compare = gr.ImageSlider(label="Photo | cut-out", max_height=560, format="jpeg")
                with gr.Row():
                    shown = {"height": 240, "format": "png", "buttons": ["fullscreen"]}
                    soft = gr.Image(label="Soft mask", **shown)
                    edge = gr.Image(label="Edge, enlarged", **shown)
                text = gr.Markdown()
                with gr.Row():
                    save = gr.Button("Make the three files", variant="primary")
                    save_all = gr.Button("All photos as a zip")
                made = gr.File(label="Click a size to save", visible=False)
        with gr.Accordion("Timelapse of a training", open=False, visible=bool(films)):
            film = gr.Dropdown(films, value=None, label="Video")
            film.change(lambda path: path, film, gr.Video(interactive=False, height=400))

        settings = [photo, chosen, size, threshold, refine, largest, holes, grow, feather]
        settings += [ground, color, behind, blur]
        changes = [page.load, *(one.change for one in settings)]
        gr.on(changes, preview, settings, [compare, soft, edge, text], trigger_mode="always_last")
        gr.on(changes, lambda: gr.File(visible=False), None, made)
        uploads.change(receive, uploads, photo)
        for kind, control in zip(GROUNDS[1:4], (color, behind, blur), strict=True):
            ground.change(lambda g, kind=kind: gr.update(visible=g == kind), ground, control)

        def make(paths, path, *rest):
            return gr.File(make_files(paths or [path], *rest), visible=True)

        save.click(lambda *args: make(None, *args), settings, made)
        save_all.click(make, [uploads, *settings], made)
    return page
