"""The command `unetlib cut`. What is heavy is imported when it runs."""

import mimetypes
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from unetlib.paths import resolve, write_whole

PICTURES, FILMS = ("png", "webp"), ("mp4", "webm", "mov", "gif")


@click.command(short_help="Cut people out of photos, folders and videos.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--into", metavar="FOLDER|FILE", help="Where to [outputs/cutouts].")
@click.option(
    "--network", "--checkpoint", "networks", multiple=True, metavar="NAME|FILE",
    help="people, best, u2netp, ... or a file, .onnx or .pth [people].",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("--size", type=int, metavar="PIXELS", help="Working size [as trained].")
@click.option(
    "--flip/--no-flip", default=None,
    help="Average with the mirror image: twice the time [photos by people: yes].",
)  # fmt: skip
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
@click.option("--format", type=click.Choice(PICTURES), help="Of pictures [png].")
@click.option("--video-format", type=click.Choice([*FILMS, "frames"]), help="Of videos [webm].")
@click.option("--no-smooth", is_flag=True, help="Videos: each frame on its own.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Photos at a time [cores].")
@click.option("--overwrite", is_flag=True, help="Cut again what is done.")
@click.option("--debug", is_flag=True, help="Stop at the first error and show its traceback.")
def cut(
    inputs, into, networks, device, flip, mask_only, comparison, format, video_format, no_smooth,
    jobs, overwrite, debug, **recipe,
) -> None:  # fmt: skip
    """Cut people out: INPUT is a photo, a folder, a video, or - for standard input.

    \b
    unetlib cut me.jpg                       Masks and cut-out into outputs/cutouts.
    unetlib cut photos --background white    A folder; its tree is kept.
    unetlib cut me.jpg -o me.png             The cut-out alone, .png or .webp.
    unetlib cut clip.mp4 -o clip.mov         A video: .webm, .mov, .gif, or .mp4.
    unetlib cut - < me.jpg > me.png

    What is there is kept, so a call that was cut off goes on when the same command is given
    again; --overwrite replaces it. Files that cannot be cut are listed at the end; exit code 1
    then. --background takes '#0a4678', '0,255,0', 'steelblue', 'white@0.7' (over the old one),
    'blur:0.05', 'grey' and files; videos are .mp4 then, else .webm; frames are PNGs. The network is
    `people`, which comes along; `best` is that of your last training, `unetlib networks` lists all.
    Repeated, --network averages several.
    """
    folder, file = find_target(into, inputs, format)
    if comparison and (file or not folder):
        raise ValueError("--comparison is a file of its own: take a folder, -o FOLDER")

    from unetlib import pretrained
    from unetlib.app import batch  # brings OpenCV: after the cheap checks
    from unetlib.app.plan import Outcome, plan
    from unetlib.cutting import FILES, Recipe
    from unetlib.video import default_target, is_video

    recipe, networks = Recipe(**recipe), networks or (pretrained.DEFAULT,)
    files = [pretrained.find(name) for name in networks]
    alone = "mask_soft" if mask_only else "foreground"
    kinds = [kind for kind in FILES if kind != "foreground" or not mask_only]
    kinds += ["comparison"] * comparison
    stream, outcomes, opened, changed = inputs == ("-",), [], [], []

    def open_predictor(threads: int | None, video: bool = False):
        both_ways = bool(flip) if video else flip  # of a film's frames each second counts
        predictor = batch.Predictor(files, device, flip=both_ways, threads=threads)
        line = predictor.describe(recipe.size)  # refuses a size that cannot be
        if not opened:
            click.echo(f"network: {' + '.join(networks)}: {line}", err=stream)
        opened.append(predictor)
        return predictor

    def name_targets(source: Path, base: Path) -> dict[str, Path]:
        video = is_video(source)
        if video and (mask_only or comparison):
            raise ValueError(f"{source} is a video: --mask-only and --comparison are for photos")
        if file and video == (file.suffix[1:].lower() in PICTURES):
            what, ends = ("video", FILMS) if video else ("photo", PICTURES)
            raise ValueError(f"{source} is a {what}: its file ends in .{', .'.join(ends)}")
        if file:
            return {"video" if video else alone: file}
        if video:
            kind = video_format or default_target(source, recipe).suffix[1:]
            suffix = "" if kind == "frames" else f".{kind}"
            return {"video": base.with_name(f"{base.name}_foreground{suffix}")}
        ends = {kind: f"_{kind}.{format or 'png'}" for kind in kinds}
        return {kind: base.with_name(base.name + end) for kind, end in ends.items()}

    tasks = [] if stream else plan(inputs, folder, name_targets, outcomes)
    todo = tasks
    if not overwrite:
        if file and file.exists():
            raise ValueError(f"{file} is there already: --overwrite replaces it")
        changed = [task for task in tasks if task.is_outdated()]
        text = "changed after it was cut out: --overwrite cuts it again"
        outcomes += [Outcome(str(task.source), True, text) for task in changed]
        todo = [left for task in tasks if task not in changed and (left := task.missing()).targets]
    if folder and (todo or stream):
        batch.check_writable(folder)
    if stream:
        result = batch.cut_stream(open_predictor(None), recipe)
        content = result.encode(alone, file.suffix[1:].lower() if file else format or "png")
        if file:
            write_whole(file, content)
        else:
            sys.stdout.buffer.write(content)
        return
    left = len(todo) + len(outcomes)
    try:
        if todo:
            batch.cut_all(todo, open_predictor, recipe, outcomes, jobs, not no_smooth, debug)
    finally:  # after Ctrl-C and on a full disk, too
        failed, left = sum(one.failed for one in outcomes), left - len(outcomes)
        text = f"{len(outcomes) - failed:,} cut out into {file or folder}"
        if done := len(tasks) - len(todo) - len(changed):
            text += f", {done:,} done before (--overwrite cuts them again)"
        text += f", {failed:,} failed" if failed else ""
        if outcomes or not left:
            click.echo(text + (f", {left:,} left: the same command goes on" if left else ""))
        for one in outcomes:
            if one.text:
                click.echo(f"  {one.input}: {one.text}", err=one.failed)
    sys.exit(1 if failed else 0)


def find_target(into: str | None, inputs: Sequence[str], format: str | None):
    """(folder, file) to write, file None for a folder and both for standard output."""
    stream, path = "-" in inputs, Path(into or "").expanduser().absolute()
    if into == "":
        raise ValueError("-o is empty (a variable that is not set?): name a folder or a file")
    if stream and path.suffix[1:].lower() in FILMS:
        raise ValueError(f"{path.name}: from standard input comes one photo, no video")
    if stream and len(inputs) > 1:
        raise ValueError("- (standard input) stands alone: it cannot be cut along with files")
    if into is None:
        if stream and sys.stdout.isatty():
            raise ValueError("the cut-out is no text: add > FILE.png, or -o FILE.png")
        return (None if stream else resolve("outputs/cutouts")), None
    suffix, kind = path.suffix[1:].lower(), mimetypes.guess_type(path.name)[0] or ""
    if not path.is_dir() and suffix in PICTURES + FILMS:
        if len(inputs) > 1 or Path(inputs[0]).expanduser().is_dir():
            raise ValueError(f"{path} is one file: several cut-outs need a folder, -o FOLDER")
        if format and format != suffix:
            raise ValueError(f"--format {format}, but the file is {path.name}")
        return path.parent, path
    if stream or (not path.is_dir() and kind.startswith(("image/", "video/"))):
        known = ", ".join(f".{name}" for name in PICTURES + FILMS)
        raise ValueError(f"{path}: cut-outs go into files that end in {known}")
    return path, None
