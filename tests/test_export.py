"""Exported networks against PyTorch's own answers, files of other programs, and the command."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from loopback import tree
from networks import write_graph
from PIL import Image

from unetlib import losses
from unetlib.app.cli import app
from unetlib.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.export import export_onnx
from unetlib.models import build_model
from unetlib.predict import OnnxNetwork, Predictor

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"unet_transposed": {"base": 4, "depth": 2}, "unet_pooled": {"base": 2}}  # quick to trace
SIZES = [(1, 64, 64), (2, 64, 96), (3, 65, 97), (1, 127, 33), (1, 101, 203)]


def network(name: str, **arguments) -> torch.nn.Module:
    """With statistics in its batch norms that are not the identity."""
    torch.manual_seed(0)
    model = build_model(name, **arguments)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_var.uniform_(0.5, 1.5)
            part.running_mean.normal_(0, 0.1)
    return model.eval()


def torch_says(model: torch.nn.Module, batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return torch.sigmoid(model(torch.from_numpy(batch)))[:, 0].numpy()


def batch(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((n, 3, height, width)).astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """A small network that has learned to find bright things: its probabilities are spread out."""
    model = network("unet_small", base=4, depth=2).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    random = np.random.default_rng(0)
    for _ in range(60):
        images, masks = scenes(8, random)
        values = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        logits = model(torch.from_numpy(np.float32(values.transpose(0, 3, 1, 2))))[:, 0]
        loss = losses.bce_loss(logits, torch.from_numpy(masks))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metrics = {"val_iou": 0.5, "epoch": 3}
    about = {"source": "synthetic"}
    return Checkpoint(model.eval(), Preprocess((64, 64)), 3, metrics, [], about)


def scenes(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on noise: photos, uint8 (n, 64, 64, 3), and masks, float32 (n, 64, 64)."""
    y, x = np.mgrid[:64, :64]
    centre, radius = random.uniform(16, 48, (n, 2, 1, 1)), random.uniform(8, 20, (n, 1, 1))
    masks = (np.hypot(y - centre[:, 0], x - centre[:, 1]) < radius).astype(np.float32)
    images = random.integers(0, 130, (n, 64, 64, 3)) + (110 * masks[..., None]).astype(int)
    return images.astype(np.uint8), masks


def call(project: Path, *args) -> Result:
    """`unetlib export` in a project, without a process."""
    return CliRunner().invoke(app, ["export", *args], env={"UNETLIB_ROOT": str(project)})


@pytest.fixture(scope="module")
def project(trained, tmp_path_factory) -> Path:
    """A project with best_model.pth and photos, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("my project")
    for name, pictures in zip(
        ("images", "masks"), scenes(20, np.random.default_rng(1)), strict=True
    ):
        (folder / "data" / name).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            pixels = picture if name == "images" else np.uint8(255 * picture)
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    save_checkpoint(folder / "outputs/checkpoints/best_model.pth", trained)
    return folder


@pytest.fixture(scope="module")
def files(project) -> dict[str, Path]:
    """The trained network in all precisions, as the command writes them."""
    before, folder = tree(project), project / "outputs" / "checkpoints"
    ends = {"float32": "", "float16": "_float16", "int8": "_int8"}
    made = {name: folder / f"best_model{end}.onnx" for name, end in ends.items()}
    done = call(project, "--precision", "all")
    assert done.exit_code == 0, done.output
    assert done.output == "".join(f"written: {path}\n" for path in made.values())
    new = {path.relative_to(project).as_posix() for path in made.values()}
    assert {name: data for name, data in tree(project).items() if name not in new} == before
    return made


@pytest.mark.parametrize("name", MODELS)
def test_every_model_answers_as_in_pytorch_at_any_size(name, tmp_path):
    model = network(name, **MODELS[name])
    path = export_onnx(Checkpoint(model, Preprocess((64, 64))), tmp_path / "net.onnx")
    run = OnnxNetwork(path, "cpu")
    for n, height, width in SIZES:
        image = batch(n, height, width)
        np.testing.assert_allclose(run(image), torch_says(model, image), atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]  # nothing beside it


def test_float16_and_int8_are_what_they_say(files, trained):
    graphs = {name: onnx.load(path).graph for name, path in files.items()}
    for name, kind in (("float16", onnx.TensorProto.FLOAT16), ("int8", onnx.TensorProto.INT8)):
        weights = [t for t in graphs[name].initializer if len(t.dims) == 4]
        assert len(weights) >= 10 and {t.data_type for t in weights} == {kind}
        ends = [*graphs[name].input, *graphs[name].output]
        assert {e.type.tensor_type.elem_type for e in ends} == {onnx.TensorProto.FLOAT}
    assert "DequantizeLinear" in {node.op_type for node in graphs["int8"].node}

    images, masks = scenes(40, np.random.default_rng(2))
    scores = {}
    for name, one in {"torch": trained, **files}.items():
        found, true = Predictor(one, "cpu").predict_small(images) >= 0.5, masks > 0
        scores[name] = ((found & true).sum((1, 2)) / (found | true).sum((1, 2))).mean()
    assert scores["torch"] > 0.8
    assert scores["torch"] - scores["float16"] < 0.002
    assert scores["torch"] - scores["int8"] < 0.02


def test_the_file_describes_itself(files):
    for precision, path in files.items():
        facts = {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
        assert facts["format"] == "unetlib-onnx" and facts["version"] == 1
        assert (facts["model"], facts["epoch"], facts["precision"]) == ("unet_small", 3, precision)
        assert facts["preprocess"]["size"] == [64, 64] and facts["metrics"]["val_iou"] == 0.5
        line = Predictor(path, "cpu").describe()
        assert "unet_small at 64×64 on cpu" in line and "epoch 3, val IoU 0.500" in line
        onnx.checker.check_model(onnx.load(path), full_check=precision == "float32")
        assert str(ROOT).encode() not in path.read_bytes()  # nothing of the machine it is from


def test_what_rembg_feeds_and_reads(files):
    """As rembg's u2net_custom does it: `outputs[0][:, 0]` of one float32 1×3×320×320."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(files["float32"]))
    image = batch(1, 320, 320)
    (out,) = session.run(None, {session.get_inputs()[0].name: image})
    assert out.shape == (1, 1, 320, 320) and out.dtype == np.float32
    np.testing.assert_allclose(out[:, 0], OnnxNetwork(files["float32"])(image), atol=1e-6)


FIXED, FREE = "[1, 3, 48, 40]", "[n, 3, h, w]"


def foreign(
    path: Path, inputs=f"float{FIXED} x", output="float[1, 1, 48, 40]", how="Sigmoid (red)", maps=1
) -> Path:
    """Another program's file: so many maps, all of them `how` of the red channel."""
    body = "index = Constant <value_ints = [0]> () red = Gather <axis = 1> (x, index) "
    body += "".join(f"d{i} = {how} " for i in range(maps))
    return write_graph(path, inputs, ", ".join(f"{output} d{i}" for i in range(maps)), body)


@pytest.mark.parametrize("shape", [FIXED, FREE])
def test_a_file_of_another_program_with_seven_maps(tmp_path, shape):
    output = f"float{shape.replace('3', '1')}"
    run = OnnxNetwork(foreign(tmp_path / "u2net.onnx", f"float{shape} x", output, maps=7))
    size = (48, 40) if shape == FIXED else (320, 320)
    assert run.name == "u2net" and run.preprocess == Preprocess(size)
    image = batch(3, 48, 40)
    np.testing.assert_allclose(run(image), 1 / (1 + np.exp(-image[:, 0])), atol=1e-5)
    if shape == FIXED:
        with pytest.raises(ValueError, match=r"failed at \(64, 64\), its own size is \(48, 40\)"):
            run(batch(1, 64, 64))


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        ("float[1, 4, 48, 40] x", "float[1, 1, 48, 40]", r"\[1, 4, 48, 40\]"),
        (f"float{FIXED} x", f"float{FIXED}", r"to tensor\(float\) \[1, 3, 48, 40\]"),
        (f"float16{FIXED} x", "float16[1, 1, 48, 40]", "float16"),
        ("float[4, 3, 48, 40] x", "float[4, 1, 48, 40]", r"\[4, 3, 48, 40\]"),  # four at once
        ("float[1, 48, 40, 3] x", "float[1, 1, 40, 3]", r"\[1, 48, 40, 3\]"),
        (
            f"float{FIXED} x, uint8[extra] y",
            "float[1, 1, 48, 40]",
            r"and tensor\(uint8\) \['extra'",
        ),
    ],
)
def test_another_kind_of_network_is_named(tmp_path, inputs, output, words):
    how = "Sigmoid (x)" if output == f"float{FIXED}" else "Sigmoid (red)"
    with pytest.raises(CheckpointError, match=f"other.onnx maps .*{words}.*export it as"):
        OnnxNetwork(foreign(tmp_path / "other.onnx", inputs, output, how))


@pytest.mark.parametrize(
    ("value", "fine"), [(1 + 1e-6, True), (-1e-6, True), (1.01, False), (-1.0, False)]
)
def test_rounding_beyond_1_passes_and_logits_do_not(tmp_path, value, fine):
    body = f"mean = ReduceMean <axes = [1]> (x) flat = Constant <value_float = {value:f}> ()"
    body += "d = Clip (mean, flat, flat)"
    path = write_graph(tmp_path / "flat.onnx", f"float{FREE} x", "float[n, 1, h, w] d", body)
    if fine:
        assert Predictor(path).predict_small([photo_of_noise()]).max() in (0, 1)
    else:
        with pytest.raises(ValueError, match="network flat: probabilities are expected"):
            Predictor([path, path]).predict(photo_of_noise())


def photo_of_noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)


def test_damaged_files_and_those_of_another_kind(tmp_path, files, trained):
    whole = files["float32"].read_bytes()
    contents = {"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}
    for name, content in {**contents, "page": b"\n<!DOCTYPE html>"}.items():
        for suffix in (".onnx", ".pth"):
            path = tmp_path / f"{name}{suffix}"
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=rf"{path} is (damaged|a web page)") as error:
                Predictor(path)
            assert "\n" not in str(error.value)
    model = onnx.load(files["float32"])
    onnx.save(model, tmp_path / "two.onnx", save_as_external_data=True, location="two.data")
    (tmp_path / "two.data").unlink()
    with pytest.raises(CheckpointError, match="two.onnx is damaged.*two.data"):
        Predictor(tmp_path / "two.onnx")
    # the content counts, not the name
    (tmp_path / "onnx.pth").write_bytes(whole)
    save_checkpoint(tmp_path / "torch.onnx", trained)
    a, b = (
        Predictor(tmp_path / n, "cpu").predict(photo_of_noise()) for n in ("onnx.pth", "torch.onnx")
    )
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_devices(files, tmp_path):
    alone = shutil.copy(files["float32"], tmp_path / "net.onnx")  # no checkpoint is beside it
    assert OnnxNetwork(alone).runs_on == "cpu (ONNX Runtime)"
    for name in ("mps", "cuda:x", "gpu"):
        with pytest.raises(ValueError, match=f"device {name}: .*net.onnx runs on cpu or cuda"):
            Predictor(alone, name)
    with pytest.raises(RuntimeError, match="device cuda:9 was asked for, but ONNX Runtime"):
        Predictor(alone, "cuda:9")


def test_wrong_requests_write_nothing(trained, files, tmp_path):
    target = tmp_path / "net.onnx"
    target.write_bytes(b"earlier")
    with pytest.raises(ValueError, match="there are float32, float16, int8"):
        export_onnx(trained, target, "floot16")
    with pytest.raises(ValueError, match="calibrated.*--source"):
        export_onnx(trained, target, "int8")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export_onnx(tmp_path / "none.pth", target)
    assert target.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [target]


def test_the_command(files, project):
    assert files["float16"].stat().st_size < files["float32"].stat().st_size
    again = call(project, "--precision", "int8")
    assert re.search("best_model_int8.onnx. --overwrite replaces", str(again.exception))
    for wrong, words in (
        (["nothing.pth"], "'nothing.pth' not found"),
        (["--precision", "int8", "--source", "folder:gone", "-o", "x.onnx"], "no such folder"),
    ):
        assert words in str(call(project, *wrong).exception)


def test_the_command_without_photos_as_a_process(trained, root, unetlib):
    save_checkpoint(root / "outputs/checkpoints/best_model.pth", trained)
    done = unetlib("export", "--precision", "int8")
    assert done.returncode == 2 and "--source" in done.stderr and "Traceback" not in done.stderr
    (root / "mine.onnx").write_bytes(b"earlier")
    done = unetlib("export", "-o", root / "mine.onnx", "--overwrite")
    assert (done.returncode, done.stderr) == (0, "")
    assert "mine.onnx" in done.stdout
    own = unetlib("export", "-o", root / "outputs/checkpoints/best_model.pth", "--overwrite")
    assert own.returncode == 2 and "choose another name" in own.stderr
    assert OnnxNetwork(root / "mine.onnx").name == "unet_small"
