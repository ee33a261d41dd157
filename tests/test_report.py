"""report.html: self-contained, honest about what is missing, and nothing in it is taken as HTML."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from unetlib.app import report
from unetlib.app.runs import write_record


class Page(HTMLParser):
    """Start tags with attributes, and the text, of a page whose tags all close."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def pictures(self):
        uris = [attrs["src"] for tag, attrs in self.tags if tag == "img"]
        assert all(uri.startswith("data:image/webp;base64,") for uri in uris)
        return [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris]


@pytest.fixture
def folder(tmp_path):
    """A run's folder with everything in it."""
    run = {
        "name": "quick-1",
        "preset": "quick",
        "status": "ok",
        "started": "2026-01-02T03:04:05",
        "seconds": 125.0,
        "device": "cpu (2 threads)",
        "parameters": {"source_root": "/tmp/my photos"},
        "versions": {"python": "3.12.1", "unetlib": "0.1.0"},
        "notebooks": {
            "03_train": {"status": "ok", "seconds": 61.0, "file": "03_train.ipynb"},
            "04_evaluate": {"status": "ok", "seconds": 64.0, "file": "04_evaluate.ipynb"},
        },
    }
    evaluation = {
        "iou": 0.91249,
        "dice": 0.95,
        "images": 240,
        "mae": None,
        "baselines": {"constant mask": 0.41, "GrabCut": 0.52},
    }
    record = {"run": run, "evaluation": evaluation}
    (tmp_path / "metrics.json").write_text(json.dumps(record), encoding="utf-8")
    rows = "".join(f"val_{i},{0.5 + i / 100:.4f},0.6,hair\n" for i in (7, 3, 9, 1, 0, 2, 8))
    (tmp_path / "evaluation.csv").write_text("id,iou,dice,tags\n" + rows, encoding="utf-8")
    (tmp_path / "images").mkdir()
    (tmp_path / "videos").mkdir()
    colour = np.random.default_rng(0).integers(0, 255, (40, 3000, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "images" / "03_curves.png")
    alpha = np.zeros((30, 20, 4), np.uint8)
    alpha[10:20] = 255
    Image.fromarray(alpha).save(tmp_path / "images" / "cat_foreground.png")
    Image.fromarray(alpha[..., 3]).save(tmp_path / "images" / "cat_mask_soft.png")
    frames = [Image.fromarray(np.full((8, 24, 3), 2 * i, np.uint8)) for i in range(100)]
    frames[0].save(
        tmp_path / "videos" / "sample_00.gif", save_all=True, append_images=frames[1:], duration=100
    )
    return tmp_path


def write(folder) -> Page:
    path = report.write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def change(folder, **run):
    record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    record["run"].update(run)
    (folder / "metrics.json").write_text(json.dumps(record), encoding="utf-8")


def test_everything_is_on_the_page(folder):
    page = write(folder)
    for words in ("quick-1", "0.912", "0.950", "2 min 05 s", "cpu (2 threads)", "3.12.1", "240"):
        assert words in page.text, words
    assert "unetlib run quick -p source_root '/tmp/my photos'" in page.text
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ["03_train.ipynb", "04_evaluate.ipynb", "metrics.json"]


def test_nothing_is_loaded_from_elsewhere(folder):
    page = write(folder)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    assert "http" not in (folder / "report.html").read_text(encoding="utf-8")


def test_pictures_are_scaled_and_keep_alpha_and_motion(folder):
    cut_out, soft, curves, timelapse = write(folder).pictures()
    assert cut_out.size == (20, 30) and cut_out.mode == "RGBA"
    assert np.asarray(cut_out)[..., 3].tolist() == np.asarray(soft.convert("L")).tolist()
    assert curves.size == (report.WIDEST, 16)
    assert timelapse.n_frames == 34 <= report.FRAMES  # every third of 100
    assert timelapse.size == (24, 8)


def test_baselines_are_drawn_against_the_network(folder):
    page = write(folder)
    widths = [a["style"] for tag, a in page.tags if tag == "i"]
    assert widths == ["width: 91.2%", "width: 52.0%", "width: 41.0%"]
    assert page.text.index("this network") < page.text.index("GrabCut")


def test_worst_and_best_images_by_iou(folder):
    ids = re.findall(r"val_\d", write(folder).text)
    assert ids == [f"val_{i}" for i in (0, 1, 2, 3, 7, 9, 8)]


def test_a_failed_run_shows_the_cell_and_escapes_it(folder):
    evil = "<script>alert(1)</script>"
    error = {"summary": f"cell 3 (f()): ValueError: {evil}", "traceback": evil, "message": evil}
    notebooks = {
        "03_train": {"status": "failed", "seconds": 1.0, "file": "03_train.ipynb", "error": error},
        "04_evaluate": {"status": "not run"},
    }
    change(folder, status="failed", notebooks=notebooks, name=evil, parameters={evil: evil})
    page = write(folder)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "03_train stopped" in page.text and page.text.count(evil) >= 4
    assert "not run" in page.text


def test_an_empty_run_still_gets_its_page(tmp_path):
    page = write(tmp_path)
    assert "unknown" in page.text and page.pictures() == []


def test_a_picture_that_cannot_be_read_is_named(folder):
    (folder / "images" / "03_curves.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    page = write(folder)
    assert len(page.pictures()) == 3
    assert "03_curves.png" in page.text


def test_numbers_for_people():
    values = [0.91249, 12, None, True, 1e-5, 123456.0, 0.0, "text"]
    expected = ["0.912", "12", "–", "True", "1e-05", "1.23e+05", "0.000", "text"]
    assert [report.number(value) for value in values] == expected


@pytest.mark.parametrize(
    "intervals, shown",
    [({"iou": [0.89, 0.9125]}, "0.890 to 0.912"), ({"iou": [0.9, None]}, ""), ([0.1, 0.2], ""),
     ({"iou": 0.9}, ""), ({"dice": [0.1, 0.2]}, ""), (None, "")],
)  # fmt: skip
def test_the_interval_of_a_score(intervals, shown):
    evaluation = {"iou": 0.9, "intervals": intervals}
    assert report.headline(evaluation) == [("val IoU", "0.900", shown)]
    assert ("iou", f"0.900 ({shown})" if shown else "0.900") in report.scores(evaluation)


def test_names_of_any_bytes(tmp_path):
    record = {"run": {"name": "\udcff", "parameters": {"photo": "\udcfe.png"}}, "evaluation": {}}
    write_record(tmp_path, record)
    page = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert r"\udcff" in page and list(tmp_path.glob("*.part")) == []


def test_headline_and_bars_of_other_shapes():
    assert report.headline({}) == [] and report.bars({}) == []
    assert report.headline({"val_iou": 0.5}) == [("val IoU", "0.500", "")]
    rows = report.bars({"iou": 0.9, "baselines": {"a": {"iou": 0.1}, "b": None}})
    assert rows == [("this network", 0.9), ("a", 0.1)]
