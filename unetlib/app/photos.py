"""Which photos a network is measured on: those of its training, or others that are named."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from unetlib.checkpoint import CheckpointError, load_checkpoint
from unetlib.data import PUBLISHED, DataError, Pair, Source
from unetlib.data.sources import absolute_spec, open_source, read_spec
from unetlib.data.split import same_bytes
from unetlib.leaderboard import Model
from unetlib.paths import resolve

NAMED = 5  # of the files that are left out


def open_photos(
    path: Path, extra: dict, source: str, val_fraction: float | None = None, download: bool = True
) -> Source:
    """The dataset that a checkpoint was trained on, or `source`. Synthetic photos are read where
    they are, never drawn: that could replace those of another training. Without `download`, a
    published set that is not here raises DataError."""
    named, settings = source or extra.get("source", "synthetic"), {}
    file = settings_file(path)
    if not source and file.is_file():
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        settings = settings if settings.get("source") == absolute_spec(named) else {}
    drawn = str(resolve(settings.get("data_dir", "data")))
    terms = []
    for term in read_spec(named):
        if term.name == "synthetic":
            term = replace(term, name="folder", root=term.root or drawn, args=())
        elif term.name in PUBLISHED and not download:
            term = replace(term, args=(*term.args, ("download", False)))
        terms.append(term)
    root = None if terms[0].root else settings.get("source_root")
    spec, seed = " + ".join(map(str, terms)), settings.get("seed", 0)
    if val_fraction is None:
        val_fraction = settings.get("val_fraction", 0.2)
    return open_source(spec, root, seed=seed, val_fraction=val_fraction)


def settings_file(path: Path) -> Path:
    """Where `unetlib train` keeps the settings of the training that wrote a checkpoint."""
    return path.absolute().parent.parent / "train.yaml"


def choose_photos(
    models: Sequence[Model], source: str, all_photos: bool
) -> tuple[list[Pair], str, list[str]]:
    """(pairs, what they are, remarks on them): the val photos, or all, of `source`. Without it they
    are those of the training of the first network whose file tells.

    Raises ValueError where no file tells, or there are no such photos; DataError, OSError.
    """
    trained, errors = {}, []
    for model in models:
        path = model.path.with_suffix(".pth")  # that of an .onnx file is often beside it
        try:
            trained[model.name] = path, load_checkpoint(path).extra
        except CheckpointError as error:
            errors.append(error)
    if not source and not trained:
        if models[0].path.suffix.lower() == ".pth":
            raise errors[0]
        raise ValueError(f"{models[0].path} does not say on which photos it was trained: --source")
    path, extra = next(iter(trained.values()), (Path(), {}))
    try:
        data = open_photos(path, extra, source, 0.0 if all_photos else None)
    except DataError as error:
        more = ". --all-photos judges on all of them" if "val_fraction" in str(error) else ""
        if not source:
            more += f"\nThese would be the photos that {path} was trained on; --source names others"
        raise DataError(f"{error}{more}") from error
    pairs = [*(data.train if all_photos else ()), *data.val]
    if not pairs:
        raise ValueError(f"no val photos in {data.root}: --all-photos judges on all of them")
    side = "photos" if all_photos else f"val photos (of {len(data.train) + len(data.val):,})"
    notes = [f"Left out: {skip.path}: {skip.reason}" for skip in data.skipped[:NAMED]]
    if len(data.skipped) > NAMED:
        notes.append(f"and {len(data.skipped) - NAMED:,} more files of {data.root} were left out")
    if source and not all_photos:
        notes.append("Only the val photos were judged; --all-photos: a set never trained on")
    if not source and len({extra.get("source") for _, extra in trained.values()}) > 1:
        notes.append(f"The photos are those of {next(iter(trained))}; --source names others")
    if source or all_photos or len(trained) > 1:
        notes += _seen_before(trained, pairs)
    return pairs, f"{len(pairs):,} {side} of {data.name} in {data.root}", notes


def _seen_before(trained: dict[str, tuple[Path, dict]], pairs: Sequence[Pair]) -> list[str]:
    """Who was trained on which of the photos. Trainings on the same set are looked up once."""
    counts, notes, unknown = {}, [], []
    for name, (path, extra) in trained.items():
        file = settings_file(path)
        key = extra.get("source"), file.read_bytes() if file.is_file() else b""
        if key not in counts:
            try:
                data = open_photos(path, extra, "", download=False)
                counts[key] = len(same_bytes(data.train, pairs))
            except (ValueError, OSError):  # the photos of its training are not here
                counts[key] = None
        if counts[key] is None:
            unknown.append(name)
        elif counts[key]:
            notes.append(
                f"{name} was trained on {counts[key]:,} of these photos: it looks better than it is"
            )
    if unknown:
        notes.append(f"Not known whether these photos were trained on: {', '.join(unknown)}")
    return notes
