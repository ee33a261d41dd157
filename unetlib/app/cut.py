"""The command `unetlib cut`."""

import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.paths import find_input, resolve

PICTURES, FILMS = ("png", "webp"), ("mp4", "webm", "mov", "gif")
LARGE = 20_000_000  # pixels: photos above are cut one at a time, each may take a gigabyte
# names in a folder that are no inputs: hidden files and results
SKIPPED = re.compile(r"\..*|.+_(mask_binary|mask_soft|foreground|comparison)(\.\w+)?")


@click.command(cls=Command, short_help="Cut people out of photos, folders and videos.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--into", metavar="FOLDER|FILE", help="Where to [outputs/cutouts].")
@click.option("--network", "--checkpoint", "networks", multiple=True, help="Name, file [people].")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("--size", type=int, metavar="PIXELS", help="Working size [as trained].")
@click.option("--flip/--no-flip", default=None, help="Average with the mirror image [people: yes].")
@click.option("--threshold", default=0.5, metavar="X", help="Foreground from there on [0.5].")
@click.option("--refine", default="guided", show_default=True, help="guided, closed-form or none.")
@click.option("--background", metavar="WHAT", help="Colour, blur, grey, picture [transparent].")
@click.option("--largest", is_flag=True, help="Keep the largest piece only.")
@click.option("--fill-holes", is_flag=True, help="Close holes.")
@click.option("--grow", default=0.0, metavar="PIXELS", help="Move the edge out, or in if negative.")
@click.option("--feather", default=0.0, metavar="PIXELS", help="Soften the edge.")
@click.option("--crop", is_flag=True, help="Crop to the figure.")
@click.option("--mask-only", is_flag=True, help="Masks, no cut-out; in one file the soft mask.")
@click.option("--comparison", is_flag=True, help="Also photo, mask and cut-out side by side.")
@click.option("--format", type=click.Choice(PICTURES), default="png", help="Of pictures [png].")
@click.option("--video-format", type=click.Choice([*FILMS, "frames"]), help="Of videos [webm].")
@click.option("--smooth/--no-smooth", default=True, help="Steady a video's masks over time [yes].")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Photos at a time [cores].")
@click.option("--overwrite", is_flag=True, help="Cut again what is done.")
@click.option("--debug", is_flag=True, help="Stop at the first error and show its traceback.")
def cut(inputs, into, networks, device, flip, smooth, jobs, overwrite, debug, **options) -> None:
    """Cut people out: INPUT is a photo, a folder, a video, or - for standard input.

    What is there and newer than its photo is kept, so the same command goes on after a call that
    was cut off. Files that cannot be cut are listed at the end; the exit code is 1 then.
    --background takes '#0a4678', '0,255,0', 'steelblue', 'white@0.7' (over the old one),
    'blur:0.05', 'grey' and files; videos are .mp4 then, else .webm; frames are PNGs.
    -o FILE takes one picture (.png, .webp) or video. Repeated, --network averages several.
    """
    names = ("mask_only", "comparison", "format", "video_format")
    masks, compared, format, film = (options.pop(name) for name in names)
    stream = "-" in inputs
    folder, file = find_target(into, inputs)
    if file and file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: --overwrite replaces it")

    import cv2
    from tqdm import tqdm

    from unetlib import pretrained
    from unetlib.cutting import OUTPUTS, Recipe, cut_photo
    from unetlib.data.images import image_size
    from unetlib.predict import Predictor
    from unetlib.video import cut_video, default_target, is_video

    recipe, networks = Recipe(**options), networks or (pretrained.DEFAULT,)
    files = [pretrained.find(name) for name in networks]
    alone = "comparison" if compared else "mask_soft" if masks else "foreground"
    kinds = [*OUTPUTS[: 2 if masks else 3], *OUTPUTS[3:] * compared]

    def name_outputs(source: Path, base: str) -> dict[str, Path]:
        """`base` with _mask_binary.png and so on; of a video with _foreground.mp4."""
        if is_video(source):
            suffix = f".{film}" if film else default_target(source, recipe).suffix
            return {"video": file or Path(f"{base}_foreground{suffix.removesuffix('.frames')}")}
        return {alone: file} if file else {k: Path(f"{base}_{k}.{format}") for k in kinds}

    errors, notes, todo, done = [], [], [], 0
    found = {} if stream else dict(find_sources(inputs, folder, errors))
    owners = dict.fromkeys(found, "an input")
    for source, base in found.items():
        try:
            targets = name_outputs(source, base)
            if taken := [path for path in targets.values() if path in owners]:
                raise FileExistsError(f"{taken[0]} belongs to {owners[taken[0]]}: choose -o")
            owners |= dict.fromkeys(targets.values(), source)
            missing = {k: p for k, p in targets.items() if overwrite or not is_newer(p, source)}
            todo += [(source, missing)] if missing else []
            done += not missing
        except OSError as error:
            errors.append(f"  {source}: {error}")
    if stream:
        todo, content = [(io.BytesIO(sys.stdin.buffer.read()), {alone: file})], []
        todo[0][0].name = "standard input"
    elif not found and not errors:
        raise ValueError(f"no photo or video in {', '.join(inputs)}")
    count = len(todo) + len(errors)
    films = [task for task in todo if "video" in task[1]]
    photos = [task for task in todo if "video" not in task[1]]
    bar = tqdm(desc="cutting out", unit="file", total=len(todo), delay=1, disable=None)
    gate = threading.Lock()

    def open_predictor(threads: int | None, flip: bool | None) -> Predictor:
        predictor = Predictor(files, device, flip=flip, threads=threads)
        line = predictor.describe(recipe.size)  # refuses a size that cannot be
        click.echo(f"network: {' + '.join(networks)}: {line}", err=True)
        cv2.setNumThreads(threads or -1)
        return predictor

    def work(task) -> None:
        source, targets = task
        label, text = "standard input" if stream else source, ""
        try:
            if "video" in targets:
                how = {"smooth": smooth, "progress": lambda n, total: bar.set_postfix(frame=n)}
                made = cut_video(source, targets["video"], predictor, recipe, **how)
                text = f"  {label}: {made.frames} frames in {made.seconds:.1f} s {made.warning}"
            else:
                width, height = image_size(source)
                with gate if width * height > LARGE else nullcontext():
                    result = cut_photo(source, predictor, recipe)
                    if None in targets.values():
                        content.append(result.encode(alone, format))
                    else:
                        result.write(targets)
                if not result.cutout.binary.any():
                    text = f"  {label}: no pixel reaches the threshold"
            notes.append(text)
        except Exception as error:  # codecs and runtimes raise whatever they like
            if debug or isinstance(error, ImportError):
                raise
            reason = str(error).removeprefix(f"{label}: ") or type(error).__name__
            errors.append(f"  {label}: {reason}")
        bar.update()

    try:  # PyMatting prints, which may not go between the bytes of a picture
        with bar, redirect_stdout(sys.stderr), ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            if photos:
                predictor = open_predictor(1 if jobs or len(photos) > 1 else None, flip)
                list(pool.map(work, photos))  # what has not begun is cancelled when this is left
            if films:
                predictor = open_predictor(None, bool(flip))  # of frames each second counts
            for task in films:
                work(task)
    finally:  # after Ctrl-C, too
        left = count - len(errors) - len(notes)
        text = f"{len(notes):,} cut out into {file or folder or 'standard output'}"
        text += f", {done:,} done before (--overwrite cuts them again)" if done else ""
        text += f", {len(errors):,} failed" if errors else ""
        text += f", {left:,} left: the same command goes on" if left else ""
        click.echo("\n".join([text, *filter(None, notes)]), err=stream)
        click.echo("\n".join(errors), err=True, nl=bool(errors))
    if stream and not file:
        sys.stdout.buffer.write(b"".join(content))
    sys.exit(1 if errors else 0)


def find_target(into: str | None, inputs: tuple[str, ...]) -> tuple[Path | None, Path | None]:
    """(folder, file) to write: no file for a folder, neither for standard output."""
    stream = "-" in inputs
    if stream and len(inputs) > 1:
        raise ValueError("- (standard input) stands alone: it cannot be cut along with files")
    if into is None:
        return (None if stream else resolve("outputs/cutouts")), None
    path, known = Path(into).expanduser().absolute(), PICTURES if stream else PICTURES + FILMS
    if not stream and (path.is_dir() or not path.suffix):
        return path, None
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"{path} is no folder, and files end in .{', .'.join(known)}")
    if len(inputs) > 1 or Path(inputs[0]).expanduser().is_dir():
        raise ValueError(f"{path} is one file: several cut-outs need a folder, -o FOLDER")
    return path.parent, path


def is_newer(target: Path, source: Path) -> bool:
    """Whether an output is there and not older than its source. Of frames the first counts."""
    file = target / "frame_00001.png" if target.is_dir() else target
    made = file.stat() if file.is_file() else None
    return bool(made and made.st_size and made.st_mtime >= source.stat().st_mtime)


def find_sources(inputs, into: Path, errors: list[str]) -> Iterator[tuple[Path, str]]:
    """Photos and videos, and what the paths of their outputs begin with: the same tree below
    `into`, below the folder's name where there are several inputs. Links to folders are not
    followed, nor is the output folder searched."""
    from unetlib.data.images import SUFFIXES
    from unetlib.video import SUFFIXES as VIDEOS

    suffixes = {*SUFFIXES, ".heic", ".heif", *VIDEOS} - {".ts"}  # .ts: programs
    for text in inputs:
        try:
            top = Path(os.path.abspath(find_input(text)))
        except OSError as error:
            errors.append(f"  {error}")
            continue
        if not top.is_dir():
            yield top, f"{into / top.stem}"
            continue
        for here, folders, names in os.walk(top, onerror=lambda e: errors.append(f"  {e}")):
            below = into / Path(here).relative_to(top.parent if len(inputs) > 1 else top)
            folders[:] = [n for n in folders if not SKIPPED.fullmatch(n) and Path(here, n) != into]
            for path in (Path(here, n) for n in sorted(names) if not SKIPPED.fullmatch(n)):
                pipe = os.path.exists(path) and not os.path.isfile(path)
                if path.suffix.lower() in suffixes and not pipe:
                    yield path, f"{below / path.stem}"
