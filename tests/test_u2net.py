"""U²-Net against the outputs of the official networks, and their weights in our model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from unetlib.models.u2net import load_official_u2net

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"


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


@pytest.fixture(scope="module", params=("u2net", "u2netp"))
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
    assert model.spec == {"name": name, "args": {}} and not model.training
    assert list(outputs) == [f"d{k}" for k in range(7)]
    for key, logits in outputs.items():
        assert golden[key].std() > 0.01
        np.testing.assert_allclose(logits.sigmoid().numpy(), golden[key], rtol=0, atol=1e-4)
