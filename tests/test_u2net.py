"""U²-Net against the outputs of the official networks, and their weights in our model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from unetlib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.models import build_model, load_official_u2net
from unetlib.models.u2net import our_name

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"
NAMES = ("u2net", "u2netp")


@pytest.fixture(scope="module")
def reference():
    if not (REFERENCE / "u2net_state_dict.json").is_file():
        pytest.skip(f"no shapes and outputs of the official networks in {REFERENCE}")
    return REFERENCE


def draw_weights(shapes):
    """The weights with which the official networks made their golden outputs."""
    rng = np.random.RandomState(0)
    weights = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(0)
            continue
        a = rng.standard_normal(shape).astype(np.float32)
        if key.endswith("running_var"):
            a = 1 + 0.1 * np.abs(a)
        elif ".bn_" in key and key.endswith("weight"):
            a = 1 + 0.1 * a
        elif len(shape) == 4:
            a = a * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:
            a = 0.1 * a
        weights[key] = torch.from_numpy(a)
    return weights


@pytest.fixture(scope="module", params=NAMES)
def official(request, reference, tmp_path_factory):
    """(name, path of a file like the official release, our model of it)."""
    name = request.param
    path = tmp_path_factory.mktemp(name) / f"{name}.pth"
    shapes = json.loads((reference / f"{name}_state_dict.json").read_text())
    torch.save(draw_weights(shapes), path)
    return name, path, load_official_u2net(path)


def test_all_seven_outputs_are_those_of_the_official_network(official, reference):
    name, _, model = official
    golden = np.load(reference / f"{name}_golden.npz")
    x = torch.from_numpy(golden["x"])
    with torch.no_grad():
        outputs = model.outputs(x)
        assert torch.equal(model(x), outputs["d0"])
    assert list(outputs) == [f"d{k}" for k in range(7)]
    for key, logits in outputs.items():
        assert golden[key].std() > 0.01
        np.testing.assert_allclose(logits.sigmoid().numpy(), golden[key], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_official_key_is_used_exactly_once(name, reference):
    shapes = json.loads((reference / f"{name}_state_dict.json").read_text())
    with torch.device("meta"):
        own = {k: list(v.shape) for k, v in build_model(name).state_dict().items()}
    assert sorted(map(our_name, shapes)) == sorted(own)
    assert {our_name(key): shape for key, shape in shapes.items()} == own


def test_the_names_of_a_few_by_hand():
    assert our_name("stage1.rebnconvin.conv_s1.bias") == "encoder.0.entry.conv.bias"
    assert our_name("stage6.rebnconv4.bn_s1.weight") == "encoder.5.down.3.norm.weight"
    assert our_name("stage2d.rebnconv3d.conv_s1.weight") == "decoder.1.up.2.conv.weight"
    assert our_name("side6.bias") == "sides.5.bias"
    assert our_name("outconv.weight") == "fuse.weight"


def test_a_loaded_official_model_is_one_of_ours(official, tmp_path):
    name, _, model = official
    assert model.spec == {"name": name, "args": {}} and not model.training
    again = load_checkpoint(
        save_checkpoint(tmp_path / "ours.pth", Checkpoint(model, Preprocess(320)))
    ).model
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


def test_weights_of_another_network_are_refused(official, tmp_path):
    name, path, _ = official
    other = tmp_path / "other.pth"
    weights = torch.load(path)
    weights["side1.weight"] = weights["side1.weight"][:, :7]
    weights["extra.weight"] = weights.pop("outconv.weight")
    torch.save(weights, other)
    with pytest.raises(ValueError, match=f"other.pth does not fit {name}: ") as error:
        load_official_u2net(other)
    message = str(error.value)
    assert "side1.weight is (1, 7, 3, 3) in the file and (1, 64, 3, 3) in the model" in message
    assert "extra.weight is (1, 6, 1, 1) in the file and absent in the model" in message
    assert "fuse.weight is absent in the file and (1, 6, 1, 1) in the model" in message
    assert "more" not in message


def test_files_of_other_kinds_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(
        ValueError, match=r"weight is \(3, 2\) in the file and absent.*and \d+ more"
    ):
        load_official_u2net(tmp_path / "linear.pth")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    for name in ("code", "text", "number", "list"):
        with pytest.raises(ValueError, match=f"{name}.pth is not a state dict of plain weights"):
            load_official_u2net(tmp_path / f"{name}.pth")
    with pytest.raises(FileNotFoundError):
        load_official_u2net(tmp_path / "absent.pth")


def test_training_gives_seven_maps_and_their_sum_reaches_the_deepest_stage():
    torch.manual_seed(0)
    model = build_model("u2net", encoder=[(2, 4)] * 6, decoder=[(2, 4)] * 5)
    x = torch.randn(2, 3, 65, 47)
    outputs = model.train()(x)
    assert {k: tuple(v.shape) for k, v in outputs.items()} == {
        f"d{k}": (2, 1, 65, 47) for k in range(7)
    }
    weight, bias = model.fuse.weight[0, :, 0, 0], model.fuse.bias
    by_hand = sum(w * outputs[f"d{k}"] for k, w in enumerate(weight, start=1)) + bias
    torch.testing.assert_close(outputs["d0"], by_hand)
    (gradient,) = torch.autograd.grad(outputs["d6"].mean(), model.encoder[5].up[0].conv.weight)
    assert gradient.any()
    assert torch.is_tensor(model.eval()(x)) and len(model.outputs(x)) == 7
