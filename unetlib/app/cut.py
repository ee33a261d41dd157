"""The command `unetlib cut`."""

import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stdout
from functools import partial
from math import inf
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import click

from unetlib.app import Command, cluster
from unetlib.errors import need
from unetlib.paths import find_input, resolve, user_path

STDIN, STDOUT = Path("standard input"), Path("standard output")
PICTURES, FILMS = ("png", "webp"), ("mp4", "webm", "mov", "gif")
LARGE = 20_000_000  # pixels: photos above are cut one at a time, each may take a gigabyte
ONE_LARGE = threading.Lock()
# names in a folder that are no inputs: hidden files and results
SKIPPED = re.compile(r"\..*|.+_(mask_binary|mask_soft|foreground|comparison)(\.\w+)?")


@click.command(cls=Command, short_help="Cut people out of photos, folders and videos.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--into", metavar="FOLDER|FILE", help="Where to [outputs/cutouts].")
@click.option("--network", "--checkpoint", multiple=True, default=["people"], help="Name, file.")
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
@click.option("--crop", is_flag=True, help="Crop photos to the figure.")
@click.option("--mask-only", is_flag=True, help="Masks, no cut-out; in one file the soft mask.")
@click.option("--comparison", is_flag=True, help="Also all side by side; in one file that alone.")
@click.option("--format", type=click.Choice(PICTURES), default="png", help="Of pictures [png].")
@click.option("--video-format", type=click.Choice([*FILMS, "frames"]), help="See above.")
@click.option("--smooth/--no-smooth", default=True, help="Steady a video's masks over time [yes].")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Photos at a time [cores].")
@click.option("--ray", is_flag=False, flag_value="local", metavar="[ADDRESS]", help="With Ray.")
@click.option("--overwrite", is_flag=True, help="Cut again what is done.")
@click.option("--debug", is_flag=True, help="Stop at the first error and show its traceback.")
def cut(inputs, into, network, device, flip, smooth, jobs, ray, overwrite, debug, **options):
    """Cut people out: INPUT is a photo, a folder, a video, or - for standard input.

    What is there and newer than its photo is kept, so the same command goes on after a call that
    was cut off. Files that cannot be cut are listed at the end; the exit code is 1 then.
    --background takes '#0a4678', '0,255,0', 'steelblue', 'white@0.7' (over the old one),
    'blur:0.05', 'grey' and files; videos are .mp4 then, else .webm; frames are PNGs.
    -o FILE takes one picture (.png, .webp) or video, -o - writes a picture to standard output.
    Repeated, --network averages several. --ray, behind the inputs, has photos cut by workers of
    Ray: on this machine, or of the cluster at ADDRESS (auto, HOST:PORT), whose
    machines see the same folders. Videos are cut here, afterwards.
    """
    from tqdm import tqdm

    from unetlib import pretrained
    from unetlib.cutting import OUTPUTS, Recipe
    from unetlib.predict import Predictor

    names = ("mask_only", "comparison", "format", "video_format")
    mask_only, comparison, format, video_format = (options.pop(name) for name in names)
    recipe, files = Recipe(**options), map(pretrained.find, network)
    weights = [pretrained.name_of(path) or path for path in files]  # other machines know names
    kinds = [*OUTPUTS[: 2 if mask_only else 3], *OUTPUTS[3:] * comparison]
    video_format = video_format or ("webm" if recipe.background is None else "mp4")
    photo_ends = {kind: f"_{kind}.{format}" for kind in kinds}
    film_ends = {"video": f"_foreground.{video_format}".removesuffix(".frames")}
    folder, file = find_target(into, stdin="-" in inputs)
    if file and file is not STDOUT and file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: --overwrite replaces it")
    errors, done = [], []  # done: (source, what is to be said of it, why it failed)
    found = dict(find_sources(inputs, folder, errors))
    if not found and not errors:
        raise ValueError(f"no photo or video in {', '.join(inputs)}")
    if file and max(len(inputs), len(found)) > 1:
        raise ValueError(f"{file} takes one picture or video: several need a folder, -o FOLDER")
    if ray:
        cluster.check(ray)
        if file or "-" in inputs:
            raise ValueError("--ray cuts photos of files and folders into a folder, -o FOLDER")
    tasks = [*find_tasks(found, photo_ends, film_ends, file, overwrite, errors)]
    todo = [task for task in tasks if task[1]]
    films = [task for task in todo if "video" in task[1]]
    photos = [task for task in todo if "video" not in task[1]]
    if films and (mask_only or comparison):
        click.echo("of videos the cut-out alone is written, no masks and no comparison", err=True)
    cut_one = partial(cut_file, recipe, smooth, format, debug)
    try:  # PyMatting prints, which may not go between the bytes of a picture
        with redirect_stdout(sys.stderr), ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            for group, each, run in ((photos, flip, pool.map), (films, bool(flip), map)):
                if not group:
                    continue
                address = ray if group is photos else None
                alone = not address and (group is films or len(group) == 1)  # a file has all cores
                load = partial(Predictor, weights, flip=each, threads=None if alone else 1)
                predictor = load("auto" if address else device)
                about = predictor.describe(recipe.size) + ", by Ray" * bool(address)
                click.echo(f"network: {' + '.join(network)}: {about}", err=True)
                if address:
                    gpus, load = "cuda" in device, partial(load, device)
                    results = cluster.run(cut_one, load, group, address, jobs, gpus, debug)
                    results = map(done.append, results)
                else:
                    work = partial(cut_one, predictor)
                    results = run(lambda task, work=work: done.append(work(*task)), group)
                list(tqdm(results, "cutting out", len(group), unit="file", delay=1, disable=None))
    finally:  # after Ctrl-C, too
        notes = [f"  {source}: {note}" for source, note, _ in done if note]
        failed = [f"  {source}: {error}" for source, _, error in done if error]
        errors += failed
        made, before, left = len(done) - len(failed), len(tasks) - len(todo), len(todo) - len(done)
        text = f"{made:,} cut out into {file or folder}, {len(errors):,} failed"
        text += f", {before:,} done before (--overwrite cuts them again)" * (before > 0)
        text += f", {left:,} left: the same command goes on" * (left > 0)
        if done or errors or not todo:  # else the network could not be used, which is an error
            click.echo("\n".join([text, *notes]), err="-" in (*inputs, into))
        click.echo("\n".join(errors), err=True, nl=bool(errors))
    sys.exit(1 if errors else 0)


def cut_file(recipe, smooth, format, debug, predictor, source, targets) -> tuple[Path, str, str]:
    """Writes what a photo or video becomes, kind -> file; `format` is that of STDOUT. Returns the
    source, what is to be said of it, and the reason if it failed, else ""."""
    from unetlib.cutting import cut_photo
    from unetlib.data.images import image_size
    from unetlib.video import cut_video

    try:
        if "video" in targets:
            return source, cut_video(source, targets["video"], predictor, recipe, smooth), ""
        photo = sys.stdin.buffer.read() if source is STDIN else source
        if source is not STDIN and (isinstance(source, Remote) or not source.is_file()):
            photo = source.read_bytes()  # a pipe, too, gives its bytes once
        width, height = image_size(photo)
        with ONE_LARGE if width * height > LARGE else nullcontext():
            result = cut_photo(photo, predictor, recipe)
            if STDOUT in targets.values():
                stream = sys.__stdout__.buffer  # sys.stdout is redirected
                stream.write(result.encode(*targets, format))
                stream.flush()
            else:
                result.write(targets)
        frames = result.photo.frames
        notes = ["no pixel reaches the threshold"] * (not result.cutout.binary.any())
        notes += [f"the first of its {frames} pictures was taken"] * (frames > 1)
        return source, ", ".join(notes), ""
    except Exception as error:  # codecs and runtimes raise whatever they like
        if debug:
            raise
        return source, "", str(error).removeprefix(f"{source}: ") or type(error).__name__


def find_target(into: str | None, stdin: bool) -> tuple[Path, Path | None]:
    """(folder, None), or (its folder, file): a suffix is what a format has."""
    from unetlib.data.images import SUFFIXES
    from unetlib.video import VIDEO_SUFFIXES

    if "://" in str(into):
        raise ValueError(f"{into}: results go into a folder, only photos are read from there")
    if into == "-" or (into is None and stdin):
        if getattr(sys.stdout, "name", "") == os.devnull:  # see cli.main
            raise ValueError("standard output is closed: name a file with -o FILE")
        return Path.cwd(), STDOUT
    path = Path(os.path.abspath(user_path(into or resolve("outputs/cutouts"))))
    if path.is_dir() or path.suffix.lower() not in {*SUFFIXES, *VIDEO_SUFFIXES}:
        return path, None
    return path.parent, path


class Remote(PurePosixPath):
    """A photo, or a folder of photos, that pyarrow reaches: "s3:/bucket/a.jpg" for
    s3://bucket/a.jpg. Keys and regions are those that pyarrow finds in the environment."""

    seconds = None  # when it was changed, since 1970

    def at(self):
        """(pyarrow's file system, the path there). Raises ValueError, OSError."""
        from pyarrow.fs import FileSystem

        scheme, bucket, *_ = self.parts  # the rest, as people name files, may be no URI
        return FileSystem.from_uri(f"{scheme}//{bucket}")[0], "/".join(self.parts[1:])

    def files(self) -> Iterator["Remote"]:
        """Itself, or all below it, with their dates. Raises OSError where there is nothing."""
        from pyarrow.fs import FileSelector

        system, path = self.at()
        single = [info for info in [system.get_file_info(path)] if info.is_file]
        for info in single or system.get_file_info(FileSelector(path, recursive=True)):
            if info.is_file:
                one = self / info.path[len(path) :].lstrip("/")
                one.seconds = info.mtime.timestamp()
                yield one

    def read_bytes(self) -> bytes:
        system, path = self.at()
        with system.open_input_stream(path) as file:
            return file.read()


def find_tasks(found, photo_ends, film_ends, file, overwrite, errors) -> Iterator[cluster.Task]:
    """Each source with the outputs that it lacks, kind -> file: what `find_sources` found with the
    ends of a photo's or film's outputs, kind -> end; or `file`, which takes the last alone. Of two
    with the same output, as a.jpg and a.png, or a.jpg and A.jpg on a system without case, the
    second is an error."""
    from unetlib.video import is_video

    key = str if sys.platform == "linux" else lambda p: normalize("NFC", str(p)).casefold()
    owners = dict.fromkeys(map(key, found), "an input")
    for source, base in found.items():
        film = is_video(source)
        ends = film_ends if film else photo_ends
        targets = {kind: Path(base + end) for kind, end in ends.items()}
        if file:
            formats = FILMS if film else PICTURES
            if file.suffix[1:].lower() not in formats and (film or file is not STDOUT):
                raise ValueError(f"{file} is no folder, and files end in .{', .'.join(formats)}")
            targets = {[*ends][-1]: file}
        try:
            for path in targets.values():
                if owners.setdefault(key(path), source) != source:
                    raise FileExistsError(f"{path} belongs to {owners[key(path)]}: choose -o")
            yield source, {k: p for k, p in targets.items() if overwrite or not is_newer(p, source)}
        except OSError as error:
            errors.append(f"  {source}: {error}")


def is_newer(target: Path, source: Path) -> bool:
    """Whether an output is there and not older than its source. Of frames the first counts."""
    file = target / "frame_00001.png" if target.is_dir() else target
    made = file.stat() if file.is_file() else None
    remote = isinstance(source, Remote)
    dated = remote or (source is not STDIN and source.exists())
    mtime = (source.seconds if remote else source.stat().st_mtime) if dated else inf
    return bool(made and made.st_size and made.st_mtime >= mtime)


def find_sources(inputs, into: Path, errors: list[str]) -> Iterator[tuple[Path, str]]:
    """Photos and videos, and what the paths of their outputs begin with: the same tree below
    `into`, below the folder's name where there are several inputs. Links to folders are not
    followed, nor is the output folder searched."""
    from unetlib.data.images import SUFFIXES
    from unetlib.video import VIDEO_SUFFIXES

    suffixes = {*SUFFIXES, *VIDEO_SUFFIXES} - {".ts"}  # .ts: programs
    for text in inputs:
        try:
            if "://" in text:
                need("pyarrow", extra="ray")
                top = Remote(text)
                files = [one for one in top.files() if one.suffix.lower() in SUFFIXES]
            else:
                top = STDIN if text == "-" else Path(os.path.abspath(find_input(text)))
                files = files_in(top, into, errors) if top.is_dir() else [top]
        except (OSError, ValueError) as error:
            errors.append(f"  {error}" if text in str(error) else f"  {text}: {error}")
            continue
        for path in files:
            parts = path.relative_to(top).parts
            pipe = os.path.exists(path) and not os.path.isfile(path)
            skipped = pipe or any(map(SKIPPED.fullmatch, parts))
            if not parts or (path.suffix.lower() in suffixes and not skipped):
                named = len(inputs) > 1 or not parts  # below the folder's name, or a file itself
                below = path.relative_to(top.parent if named else top)
                yield path, f"{into / below.with_suffix('')}"


def files_in(top: Path, into: Path, errors: list[str]) -> Iterator[Path]:
    for here, folders, names in os.walk(top, onerror=lambda e: errors.append(f"  {e}")):
        folders[:] = [n for n in folders if not SKIPPED.fullmatch(n) and Path(here, n) != into]
        yield from (Path(here, name) for name in sorted(names))
