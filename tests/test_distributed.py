"""Two processes train what one would: real ones, on the CPU, talking through gloo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from unetlib.training import FitResult

pytest.importorskip("accelerate")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and gloo on Windows")
ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "image-size": 32, "base": 4, "depth": 3, "epochs": 3, "augment": "light", "device": "cpu",
    "precision": "float32", "tracking": "none", "optimizer": "sgd", "lr": 0.01, "ema": 0.9,
}  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def environment(tmp_path, make_pairs):
    make_pairs([f"photo{i}" for i in range(40)], tmp_path / "photos")
    new = {
        "UNETLIB_ROOT": str(tmp_path), "UNETLIB_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"} | new


def command(launcher: list[str], out: str, **settings) -> list[str]:
    options = {**TINY, "data-root": "photos", "outputs-dir": out, **settings}
    pairs = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, *launcher, "-m", "unetlib", "train", "--no-timelapse", *pairs]


def run(environment, launcher: list[str], out: str, **settings) -> FitResult:
    done = subprocess.run(
        command(launcher, out, **settings), env=environment, cwd=environment["UNETLIB_ROOT"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("val IoU") == 1  # one of them talks
    return FitResult.load(Path(environment["UNETLIB_ROOT"]) / out / "checkpoints")


@pytest.mark.parametrize(
    "settings", [{}, {"accumulate": 2}, {"optimizer": "adamw", "lr": 1e-4}], ids=str
)
def test_two_processes_follow_the_curve_of_one(environment, settings):
    """At the same global batch. The learning rates are such that a training is not chaotic: at
    higher ones already a change of a weight by 1e-7 moves the later losses by more than 1e-3."""
    one = run(environment, [], "one", **{"batch-size": 8}, **settings)
    two = run(environment, TORCHRUN, "two", **{"batch-size": 4}, **settings)
    assert len(one.history) == len(two.history) == 3
    for a, b in zip(one.history, two.history, strict=True):
        assert a["lr"] == b["lr"]
        for name in ("train_loss", "val_loss", "val_accuracy", "val_foreground_true"):
            assert a[name] == pytest.approx(b[name], abs=1e-3), name
    assert one.history[0]["val_foreground_true"] == two.history[0]["val_foreground_true"]
    leftovers = Path(environment["UNETLIB_ROOT"], "two", "checkpoints").iterdir()
    assert sorted(p.name for p in leftovers) == ["best_model.pth", "last_model.pth"]


def test_processes_option_starts_them_itself(environment):
    result = run(environment, [], "two", **{"batch-size": 4, "processes": 2, "epochs": 1})
    assert result.stopped == "finished"


def test_a_killed_process_ends_the_run_with_an_error(environment):
    process = subprocess.Popen(
        command(TORCHRUN, "long", **{"epochs": 10_000, "batch-size": 4}),
        env=environment, start_new_session=True, cwd=environment["UNETLIB_ROOT"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        state = Path(environment["UNETLIB_ROOT"], "long/checkpoints/training_state.pth")
        for _ in range(1200):
            if state.exists():
                break
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


NORM = """
import sys, torch
from torch import nn
import torch.distributed as dist
from unetlib.distributed import Processes
from tests.test_distributed import norm_case
p = Processes("cpu")
x, weights, norm = norm_case()
norm = norm.train()
holder = p.wrap(nn.Sequential(norm))
part = x[p.rank * 3 : p.rank * 3 + 3].clone().requires_grad_()
y = holder(part)
(y * weights[p.rank * 3 : p.rank * 3 + 3]).sum().backward()
torch.save([y.detach(), part.grad, norm.weight.grad, norm.bias.grad,
            norm.running_mean, norm.running_var], sys.argv[1] + f"/{p.rank}.pt")
p.leave()
"""


def norm_case():
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(6, 4, 5, 7, generator=generator)
    norm = nn.BatchNorm2d(4)
    norm.weight.data.uniform_(0.5, 2, generator=generator)
    norm.bias.data.normal_(generator=generator)
    return x, torch.randn(6, 4, 5, 7, generator=generator), norm


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(environment, tmp_path):
    script = tmp_path / "norm.py"
    script.write_text(NORM)
    done = subprocess.run(
        [sys.executable, *TORCHRUN, str(script), str(tmp_path)], env=environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    x, weights, norm = norm_case()
    x.requires_grad_()
    y = norm.train()(x)
    (y * weights).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), x.grad, **close)
    for rank in (0, 1):  # DistributedDataParallel has averaged the two
        torch.testing.assert_close(2 * parts[rank][2], norm.weight.grad, **close)
        torch.testing.assert_close(2 * parts[rank][3], norm.bias.grad, **close)
        torch.testing.assert_close(parts[rank][4], norm.running_mean, **close)
        torch.testing.assert_close(parts[rank][5], norm.running_var, **close)
