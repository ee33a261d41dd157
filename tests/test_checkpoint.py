"""Checkpoints: they rebuild the model, refuse what is dangerous or wrong, and survive a kill."""

import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from unittest.mock import DEFAULT, patch

import numpy as np
import pytest
import torch

from unetlib.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.models import build_model


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    model = build_model("unet_small", base=4, dropout=0.1)
    model(torch.randn(2, 3, 32, 32))  # batch norm has seen something
    return Checkpoint(
        model,
        Preprocess((96, 64), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)),
        epoch=7,
        metrics={"val_iou": np.float32(0.5)},  # as students average scores
        history=[{"epoch": 1, "train_loss": 1.25}],
        extra={"source": "synthetic"},
    )


def test_what_is_saved_comes_back(tmp_path, checkpoint):
    path = save_checkpoint(tmp_path / "new" / "folder" / "best_model.pth", checkpoint)
    loaded = load_checkpoint(path)
    x = torch.randn(1, 3, 40, 40)
    assert torch.equal(loaded.model(x), checkpoint.model.eval()(x))
    assert not loaded.model.training
    for name in ("preprocess", "epoch", "metrics", "history", "extra"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert loaded.model.spec == {"name": "unet_small", "args": {"base": 4, "dropout": 0.1}}
    assert list(path.parent.iterdir()) == [path]  # no temporary file is left


def test_weights_of_another_model_and_of_an_unknown_one(tmp_path, checkpoint):
    path = save_checkpoint(tmp_path / "x.pth", checkpoint)
    content = torch.load(path, weights_only=True)
    for name, message in (
        ("unet_transposed", "another architecture than unet_transposed.*(Missing|mismatch)"),
        ("resnet", "cannot be used: no model is called 'resnet'"),
    ):
        torch.save({**content, "model": {"name": name, "args": {"base": 4}}}, path)
        with pytest.raises(CheckpointError, match=rf"x\.pth.*{message}"):
            load_checkpoint(path)


def test_a_file_that_is_cut_off_or_has_flipped_bytes_is_damaged(tmp_path, checkpoint):
    path = save_checkpoint(tmp_path / "x.pth", checkpoint)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:  # in the middle of the weights
        info = max(archive.infolist(), key=lambda i: i.file_size)
    at = info.header_offset + info.file_size // 2
    flipped = whole[:at] + bytes(b ^ 0xFF for b in whole[at : at + 8]) + whole[at + 8 :]
    for kept in (0, 1, 100, len(whole) // 2, int(0.99 * len(whole)), None):
        path.write_bytes(flipped if kept is None else whole[:kept])
        with pytest.raises(CheckpointError, match=r"x\.pth is damaged"):
            load_checkpoint(path)


def test_other_files_are_no_checkpoints(tmp_path, checkpoint):
    path = tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*x\.pth.*03_train"):
        load_checkpoint(path)
    for content in (b"hello", b"\x89PNG\r\n\x1a\n", pickle.dumps([1]), b"\x80\x02."):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.pth"):
            load_checkpoint(path)
    torch.save(checkpoint.model.state_dict(), path)
    with pytest.raises(CheckpointError, match="bare state dict"):
        load_checkpoint(path)


class _Payload:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, checkpoint, zipped):
    path, trace = tmp_path / "x.pth", tmp_path / "ran"
    save_checkpoint(path, checkpoint)
    content = torch.load(path, weights_only=True)
    content["extra"] = {"surprise": _Payload(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"x\.pth .*carries code.*refused"):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_file_that_a_virus_scanner_holds_for_a_moment(tmp_path, checkpoint):
    with patch("os.replace", side_effect=[PermissionError, DEFAULT], wraps=os.replace):
        assert load_checkpoint(save_checkpoint(tmp_path / "x.pth", checkpoint)).epoch == 7


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on file sizes, which Windows lacks")
def test_a_full_disk_keeps_the_earlier_file(tmp_path, checkpoint):
    path = save_checkpoint(tmp_path / "x.pth", checkpoint)
    before = path.read_bytes()
    code = """
        import resource, signal, sys
        from unetlib.checkpoint import load_checkpoint, save_checkpoint
        checkpoint = load_checkpoint(sys.argv[1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # or the limit kills instead of failing
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        save_checkpoint(sys.argv[1], checkpoint)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert "CheckpointError: could not write the checkpoint" in done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
