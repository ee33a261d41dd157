"""The command `unetlib cut`."""

import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stdout
from functools import partial
from itertools import starmap
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import click

from unetlib.app import Command
from unetlib.errors import need
from unetlib.paths import find_input, resolve, typed

STDIN, STDOUT = Path("standard input"), Path("standard output")
PICTURES, FILMS = ("png", "webp"), ("mp4", "webm", "mov", "gif")
LARGE = 20_000_000  # pixels: photos above are cut one at a time, each may take a gigabyte
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
@click.option("--comparison", is_flag=True, help="Also photo, mask and cut-out side by side.")
@click.option("--format", type=click.Choice(PICTURES), default="png", help="Of pictures [png].")
@click.option("--video-format", type=click.Choice([*FILMS, "frames"]), help="Of videos [webm].")
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
    from unetlib.app import cluster
    from unetlib.cutting import OUTPUTS, Recipe
    from unetlib.video import is_video

    names = ("mask_only", "comparison", "format", "video_format")
    masks, compared, format, film = (options.pop(name) for name in names)
    recipe, weights = Recipe(**options), [pretrained.find(name) for name in network]
    weights = [pretrained.name_of(path) or path for path in weights]  # other machines know names
    kinds = [*OUTPUTS[: 2 if masks else 3], *OUTPUTS[3:] * compared]  # one file takes the last
    film = film or ("webm" if recipe.background.behind is None else "mp4")
    folder, file = find_target(into, inputs)
    if file and file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: --overwrite replaces it")
    if ray:
        cluster.check(ray)
        if file or "-" in inputs:
            raise ValueError("--ray cuts photos of files and folders into a folder, -o FOLDER")

    def name_outputs(source: Path, base: str) -> dict[str, Path]:
        kind = "video" if is_video(source) else kinds[-1]
        known = FILMS if kind == "video" else PICTURES
        if file and file.suffix[1:].lower() in known or file is STDOUT and known is PICTURES:
            return {kind: file}
        if file:
            raise ValueError(f"{file} is no folder, and files end in .{', .'.join(known)}")
        if kind == "video":
            return {kind: Path(f"{base}_foreground.{film}".removesuffix(".frames"))}
        return {kind: Path(f"{base}_{kind}.{format}") for kind in kinds}

    errors, notes = [], []
    found = dict(find_sources(inputs, folder, errors))
    if not found and not errors:
        raise ValueError(f"no photo or video in {', '.join(inputs)}")
    tasks = [*find_tasks(found, name_outputs, overwrite, errors)]
    todo = [task for task in tasks if task[1]]
    films = [task for task in todo if "video" in task[1]]
    photos = [task for task in todo if "video" not in task[1]]
    count, output = len(todo) + len(errors), (sys.stdout.buffer, format)

    def record(source: Path, note: str, error: str) -> None:
        if error:
            errors.append(f"  {source}: {error}")
        else:
            notes.append((source, note))

    try:  # PyMatting prints, which may not go between the bytes of a picture
        with redirect_stdout(sys.stderr), ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            for group, each, run in ((photos, flip, pool.map), (films, bool(flip), map)):
                if group:  # of films each second counts, and each frame has all cores
                    far = ray if run is not map else None
                    threads = 1 if far or (run is not map and len(group) > 1) else None
                    make = partial(Cutter, weights, recipe, each, threads, smooth, debug)
                    cutter = make("auto" if far else device, output)
                    about = cutter.about + f", by Ray on {device}" * bool(far)
                    click.echo(f"network: {' + '.join(network)}: {about}", err=True)
                    if far:
                        how = {"workers": jobs, "gpus": "cuda" in device, "debug": debug}
                        done = cluster.run(partial(make, device), group, far, **how)
                        results = starmap(record, done)
                    else:
                        results = run(lambda task, cut=cutter: record(task[0], *cut(*task)), group)
                    bar = {"total": len(group), "unit": "file", "delay": 1, "disable": None}
                    list(tqdm(results, "cutting out", **bar))
    finally:  # after Ctrl-C, too
        done, left = len(tasks) - len(todo), count - len(notes) - len(errors)
        text = f"{len(notes):,} cut out into {file or folder}, {len(errors):,} failed"
        text += f", {done:,} done before (--overwrite cuts them again)" * (done > 0)
        text += f", {left:,} left: the same command goes on" * (left > 0)
        lines = [text, *(f"  {source}: {note}" for source, note in notes if note)]
        click.echo("\n".join(lines), err="-" in (*inputs, into))
        click.echo("\n".join(errors), err=True, nl=bool(errors))
    sys.exit(1 if errors else 0)


class Cutter:
    """Cuts the files of a run one by one, for threads here or in a worker of Ray, which makes its
    own. output: (binary stream, format) behind STDOUT. `about`: a line on its network. Raises what
    `Predictor` and its `describe` raise."""

    def __init__(self, weights, recipe, flip, threads, smooth, debug, device, output=None):
        from unetlib.predict import Predictor

        self.predictor = Predictor(weights, device, flip=flip, threads=threads)
        self.about = self.predictor.describe(recipe.size)  # refuses a size that cannot be
        self.recipe, self.smooth, self.debug, self.output = recipe, smooth, debug, output
        self.gate = threading.Lock()

    def __call__(self, source: Path, targets: dict[str, Path]) -> tuple[str, str]:
        """Returns what is to be said of a source, and the reason if it failed, else ""."""
        try:
            return self.cut_one(source, targets), ""
        except Exception as error:  # codecs and runtimes raise whatever they like
            if self.debug:
                raise
            return "", str(error).removeprefix(f"{source}: ") or type(error).__name__

    def cut_one(self, source: Path, targets: dict[str, Path]) -> str:
        """Writes what a source becomes, kind -> file. Returns what is to be said of it."""
        from unetlib.cutting import cut_photo
        from unetlib.data.images import image_size
        from unetlib.video import cut_video

        predictor, recipe = self.predictor, self.recipe
        if "video" in targets:
            return cut_video(source, targets["video"], predictor, recipe, smooth=self.smooth)
        photo = io.BytesIO(sys.stdin.buffer.read()) if source is STDIN else source
        photo = io.BytesIO(source.read_bytes()) if isinstance(source, Remote) else photo
        width, height = image_size(photo)
        with self.gate if width * height > LARGE else nullcontext():
            result = cut_photo(photo, predictor, recipe)
            if STDOUT in targets.values():
                stream, format = self.output
                stream.write(result.encode(*targets, format))
                stream.flush()
            else:
                result.write(targets)
        frames = result.photo.frames
        empty = ["no pixel reaches the threshold"] * (not result.cutout.binary.any())
        return ", ".join(empty + [f"the first of its {frames} pictures was taken"] * (frames > 1))


def find_target(into: str | None, inputs: tuple[str, ...]) -> tuple[Path, Path | None]:
    """(folder, None), or (its folder, file) for a single input: a suffix is what a format has."""
    from unetlib.data.images import SUFFIXES
    from unetlib.video import SUFFIXES as VIDEOS

    if "://" in str(into):
        raise ValueError(f"{into}: results go into a folder, only photos are read from there")
    if into is None:
        into = "-" if "-" in inputs else str(resolve("outputs/cutouts"))
    path = STDOUT if into == "-" else Path(os.path.abspath(typed(into)))
    known = path.suffix.lower() in {*SUFFIXES, *VIDEOS}
    if path is not STDOUT and (path.is_dir() or not known or into[-1:] in ("/", os.sep)):
        return path, None
    if len(inputs) > 1 or "://" in inputs[0] or typed(inputs[0]).is_dir():
        raise ValueError(f"{path} takes one picture or video: several need a folder, -o FOLDER")
    if path is STDOUT and getattr(sys.stdout, "name", "") == os.devnull:  # see cli.main
        raise ValueError("standard output is closed: name a file with -o FILE")
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
        known = [info for info in [system.get_file_info(path)] if info.is_file]
        for info in known or system.get_file_info(FileSelector(path, recursive=True)):
            if info.is_file:
                one = self / info.path[len(path) :].lstrip("/")
                one.seconds = info.mtime.timestamp()
                yield one

    def read_bytes(self) -> bytes:
        system, path = self.at()
        with system.open_input_stream(path) as file:
            return file.read()


def find_tasks(found: dict[Path, str], name_outputs, overwrite: bool, errors: list[str]):
    """Yields each source with the outputs that it lacks, kind -> file. Of two that have the same,
    as a.jpg and a.png, or a.jpg and A.jpg on a system without case, the second is an error."""
    key = str if sys.platform == "linux" else lambda p: normalize("NFC", str(p)).casefold()
    owners = dict.fromkeys(map(key, found), "an input")
    for source, base in found.items():
        try:
            targets = name_outputs(source, base)
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
    given = source.seconds if remote else source.exists() and source.stat().st_mtime
    return bool(made and given and made.st_size and made.st_mtime >= given)  # stdin has no date


def find_sources(inputs, into: Path, errors: list[str]) -> Iterator[tuple[Path, str]]:
    """Photos and videos, and what the paths of their outputs begin with: the same tree below
    `into`, below the folder's name where there are several inputs. Links to folders are not
    followed, nor is the output folder searched."""
    from unetlib.data.images import SUFFIXES
    from unetlib.video import SUFFIXES as VIDEOS

    suffixes = {*SUFFIXES, *VIDEOS} - {".ts"}  # .ts: programs
    for text in inputs:
        if "://" in text:
            need("pyarrow", extra="ray")
            top = Remote(text)
            try:
                found = [*top.files()]
            except (OSError, ValueError) as error:
                errors.append(f"  {text}: {error}")
                continue
            for path in found:
                below = path.relative_to(top.parent if len(inputs) > 1 or path == top else top)
                if path.suffix.lower() in SUFFIXES and not any(map(SKIPPED.fullmatch, below.parts)):
                    yield path, f"{into.joinpath(*below.parent.parts, below.stem)}"
            continue
        try:
            top = STDIN if text == "-" else Path(os.path.abspath(find_input(text)))
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
