"""A rubric applied to what a submission holds and did: points, reasons, and the evidence."""

from dataclasses import dataclass, field

from unetlib.app.rubric import Chapter, Item, checks_of, is_number
from unetlib.app.submission import Evidence


@dataclass(frozen=True)
class Mark:
    """The points of one item, why some are missing, and what they were given for."""

    title: str
    points: float
    out_of: float
    reason: str = ""
    evidence: list[str] = field(default_factory=list)
    tail: str = ""  # of an error


@dataclass(frozen=True)
class Grade:
    """What a submission got; `flags` are what an instructor should look at."""

    submission: str
    items: list[Mark]
    flags: list[str]

    @property
    def points(self) -> float:
        return round(sum(mark.points for mark in self.items), 2)

    @property
    def out_of(self) -> float:
        return sum(mark.out_of for mark in self.items)

    @property
    def reason(self) -> str:
        return "; ".join(f"{mark.title}: {mark.reason}" for mark in self.items if mark.reason)


def apply_rubric(
    name: str, items: list[Item], evidence: Evidence, course: dict[str, Chapter]
) -> Grade:
    """The grade of the submission `name`: a mark for each item."""
    kinds = {"notebook": _notebook, "exercise": _exercise, "file": _file, "metric": _metric}
    marks = []
    for item in items:
        share, reason, lines = kinds[item.kind](item, evidence, course)
        tail = evidence.notebooks[item.name].tail if item.kind == "notebook" else ""
        points = round(share * item.points, 2)
        marks.append(Mark(item.title, points, item.points, reason, lines, tail))
    return Grade(name, marks, evidence.flags)


def _notebook(item: Item, evidence: Evidence, course) -> tuple[float, str, list[str]]:
    found = evidence.notebooks[item.name]
    line = f"{found.ran} of {found.cells} cells ran"
    reason = found.problem or ("" if found.ran >= found.cells else f"only {line}")
    return min(1, found.ran / max(1, found.cells)), reason, [line]


def _exercise(item: Item, evidence: Evidence, course) -> tuple[float, str, list[str]]:
    checks = checks_of(item.name, course)
    results = {name: evidence.exercises[name] for name in checks}
    solved = sum(check.points for name, check in checks.items() if results[name][0])
    lines = [f"{name}: {'solved' if ok else why}" for name, (ok, why) in results.items()]
    wrong = [name for name, (ok, _) in results.items() if not ok]
    reason = f"not solved: {', '.join(wrong)}" if wrong else ""
    if wrong and len(checks) == 1:
        lines, reason = [], results[wrong[0]][1]
    return solved / sum(check.points for check in checks.values()), reason, lines


def _file(item: Item, evidence: Evidence, course) -> tuple[float, str, list[str]]:
    wanted, least, found = max(1, int(item.at_least or 1)), max(1, item.at_least_bytes), ""
    for place, origin in zip(evidence.outputs, ("handed in", "made by this run"), strict=False):
        files = [p for p in sorted(place.glob(item.name)) if p.is_file() and not p.is_symlink()]
        sizes = {p.relative_to(place).as_posix(): p.stat().st_size for p in files}
        large = [f"{name}, {size:,} bytes" for name, size in sizes.items() if size >= least]
        if len(large) >= wanted:
            return 1, "", [f"{len(large)} {origin}", *large[:5]]
        small = f" that has {least:,} bytes" if len(large) < len(files) else ""
        found = found or f"{len(large)} of {wanted} {item.name}{small}"
    return 0, found, []


def _metric(item: Item, evidence: Evidence, course) -> tuple[float, str, list[str]]:
    claimed, value = evidence.claimed.get(item.name), evidence.measured.get(item.name)
    lines = [f"metrics.json says {item.name} {str(claimed):.20}"] if claimed is not None else []
    number = is_number(value)
    if number and (photos := evidence.measured.get("n")):
        lines.append(f"the checkpoint gives {value:.4f} on {photos:g} photos")
    if evidence.doubt or not number:
        return 0, evidence.doubt or f"metrics.json has no {item.name}", lines
    limit, word = (item.at_least, "least") if item.at_most is None else (item.at_most, "most")
    steps = {limit: item.points, **item.partial}
    reached = [
        p for step, p in steps.items() if (value >= step if word == "least" else value <= step)
    ]
    got = max(reached, default=0)
    reason = "" if got == item.points else f"{item.name} {value:.3f}, asked is at {word} {limit:g}"
    return got / (item.points or 1), reason, lines
