"""Two processes train what one would: real ones, on the CPU, talking through gloo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unetlib.checkpoint import load_checkpoint
from unetlib.data.dataset import make_loaders
from unetlib.data.sources import open_source
from unetlib.metrics import count
from unetlib.training import FitResult

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and gloo on Windows")
ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--data-root photos --image-size 32 --base 4 --depth 2 --epochs 2 --device cpu --batch-size 4"
)
TINY += " --precision float32 --tracking none --no-timelapse --optimizer sgd --lr 0.01 --ema 0.9"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(autouse=True)
def place(root, tmp_path, make_pairs, monkeypatch) -> Path:
    """A folder with photos, where the command runs; what it writes is in root."""
    make_pairs([f"photo{i}" for i in range(40)], tmp_path / "photos")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return root


def options(out: str, **settings) -> list[str]:
    pairs = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return ["train", *TINY.split(), "--outputs-dir", out, *pairs]


def test_two_processes_learn_what_one_does_and_one_of_them_writes(place, unetlib):
    """Batch norm sees the photos of one process, so that the curves are alike, not equal."""
    results = {}
    for out, processes, batch in (("one", 1, 8), ("two", 2, 4)):
        how = {"batch-size": batch, "accumulate": 2, "processes": processes}
        done = unetlib(*options(out, **how))
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("val IoU") == 1  # one of them talks
        assert ("on 2 × cpu" in done.stdout) == (processes == 2)
        results[out] = FitResult.load(place / out / "checkpoints")
        names = (place / out / "checkpoints").glob("*.pth")
        assert sorted(p.name for p in names) == ["best_model.pth", "last_model.pth"]
    best = load_checkpoint(results["two"].best_path)  # its score is that of the weights kept
    val = make_loaders(open_source("folder:photos"), 32, 4)[1]
    ious = [count(best.model(x) > 0, y >= 0.5).iou() for x, y in val]
    assert np.concatenate(ious).mean() == pytest.approx(best.metrics["val_iou"], abs=1e-6)
    one, two = (results[out].history for out in ("one", "two"))
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a["lr"] == b["lr"]
        for name in ("train_loss", "val_loss"):
            assert a[name] == pytest.approx(b[name], abs=0.05), name


def test_a_failure_of_one_process_is_one_line(unetlib):
    done = unetlib(*options("failed", processes=2, lr=1e30, clip=0, schedule="constant"))
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "failed, which ended the training" in said and "no longer a finite number" in said
    assert "Traceback" not in done.stderr


def test_under_torchrun_a_killed_process_ends_the_run_with_an_error(place):
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "unetlib", *options("long", epochs=10_000)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        state = place / "long" / "checkpoints" / "training_state.pth"
        while not state.exists():
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("needs Linux to find the processes")
        ranks = [int(pid) for pid in children.read_text().split()]
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        assert process.wait(timeout=60) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
