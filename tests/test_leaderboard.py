"""Which network is the best: found in folders, judged on the same photos, told from luck."""

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unetlib import leaderboard
from unetlib.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from unetlib.data import load_pair, open_source
from unetlib.data.preprocess import Preprocess
from unetlib.evaluate import evaluate
from unetlib.leaderboard import SHOWN, Model, compare, find_models, milliseconds, verdict
from unetlib.models import build_model
from unetlib.paths import write_whole
from unetlib.predict import Predictor

pytestmark = pytest.mark.usefixtures("root")


def network(seed: int = 0, bias: float | None = None) -> torch.nn.Module:
    """A tiny one that was not trained; with a bias its answer is the same for every pixel."""
    torch.manual_seed(seed)
    model = build_model("unet_small", base=4, depth=2)
    if bias is not None:
        last = [part for part in model.modules() if isinstance(part, torch.nn.Conv2d)][-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, bias)
    return model.eval()


def save(path, seed: int = 0, bias: float | None = None, **extra):
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(
        path, Checkpoint(network(seed, bias), Preprocess((32, 32)), 1, {}, [], extra)
    )


@pytest.fixture
def pairs(make_pairs, tmp_path):
    folder = make_pairs([f"photo {i}" for i in range(9)], tmp_path / "set")
    source = open_source(f"folder:{folder}", val_fraction=0)
    return source.train


class TestFinding:
    def test_runs_and_checkpoints_each_content_once(self, root):
        first = save(root / "outputs/runs/first/checkpoints/best_model.pth", 1)
        second = save(root / "outputs/runs/second one/checkpoints/best_model.pth", 2)
        copy = root / "outputs/checkpoints/best_model.pth"
        copy.parent.mkdir(parents=True)
        shutil.copy2(second, copy)
        older = save(copy.with_name("best_model-20260101-000000.pth"), 3)
        write_whole(copy.with_name("training_state.pth"), b"no network")
        write_whole(copy.with_name("notes.txt"), b"no network either")
        save(root / "outputs/runs/first/checkpoints/last_model.pth", 9)
        found = {model.name: model for model in find_models()}
        assert list(found) == ["first", "second one", "best_model-20260101-000000.pth"]
        assert [model.path for model in found.values()] == [first, second, older]
        assert found["second one"].also == (copy,)

    @pytest.mark.parametrize("place", ["run", "outputs/runs/run", "outputs/runs"])
    def test_a_run_by_its_name_its_folder_and_the_folder_around_it(self, root, place):
        path = save(root / "outputs/runs/run/checkpoints/best_model.pth")
        assert find_models([place]) == [Model("run", path)]

    def test_files_of_the_same_name_are_told_apart(self, tmp_path):
        paths = [save(tmp_path / f"{name}/net.pth", i) for i, name in enumerate("ab")]
        paths.append(save(tmp_path / "other.pth", 5))
        assert [m.name for m in find_models(paths)] == ["a/net.pth", "b/net.pth", "other.pth"]
        deep = [save(tmp_path / f"{name}/x/net.pth", i) for i, name in enumerate("cd", 6)]
        assert [m.name for m in find_models(deep)] == ["c/x/net.pth", "d/x/net.pth"]

    def test_a_folder_of_networks(self, tmp_path):
        save(tmp_path / "nets/b.pth", 1)
        write_whole(tmp_path / "nets/a.onnx", b"whatever it holds")
        assert [model.name for model in find_models([tmp_path / "nets"])] == ["a.onnx", "b.pth"]

    def test_the_same_file_twice_is_once(self, tmp_path):
        path = save(tmp_path / "net.pth")
        assert find_models([path, "net.pth"]) == [Model("net.pth", path)]

    @pytest.mark.parametrize(
        ("place", "error", "words"),
        [
            ("gone.pth", FileNotFoundError, "'gone.pth' not found.*unetlib train"),
            ("photos", ValueError, "is no run and holds none.*Found: 1.jpg"),
            ("photos/1.jpg", ValueError, "is no network: their files end in .pth or .onnx"),
        ],
    )
    def test_what_is_none(self, tmp_path, place, error, words):
        (tmp_path / "photos").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "photos/1.jpg")
        with pytest.raises(error, match=words):
            find_models([place])

    def test_nothing_at_all(self):
        with pytest.raises(FileNotFoundError, match="no network in .*unetlib run"):
            find_models()


class TestComparing:
    def test_the_numbers_are_those_of_each_network_alone(self, tmp_path, pairs):
        paths = [save(tmp_path / f"{seed}.pth", seed) for seed in range(3)]
        board = compare(find_models(paths), pairs, 0.45)
        assert list(board.evaluations) == list(board.table["name"]) and not board.failed
        assert board.table["iou"].is_monotonic_decreasing
        for row in board.table.itertuples():
            path = tmp_path / row.name
            alone = evaluate(Predictor(path, "cpu"), pairs, 0.45)
            assert list(board.evaluations[row.name].table["id"]) == [pair.id for pair in pairs]
            for score in SHOWN:
                assert getattr(row, score) == pytest.approx(alone[score].mean(), abs=1e-9)
                low, high = (getattr(row, f"{score}_{end}") for end in ("low", "high"))
                assert low <= getattr(row, score) <= high
            weights = torch.load(path, weights_only=True)["state_dict"]
            counted = sum(v.numel() for k, v in weights.items() if k.endswith((".weight", ".bias")))
            assert row.parameters == counted
            assert row.megabytes == path.stat().st_size / 1e6
            assert row.milliseconds > 0 and row.runs_on.startswith("cpu (")
            assert row.threshold == 0.45

    def test_better_on_every_photo_and_the_same_network_twice(self, tmp_path, pairs):
        save(tmp_path / "all.pth", bias=4.0)
        save(tmp_path / "none.pth", bias=-4.0)
        save(tmp_path / "all again.pth", bias=4.0, note="other bytes")
        models = [Model(name, tmp_path / f"{name}.pth") for name in ("none", "all", "all again")]
        table = compare(models, pairs).table.set_index("name")
        assert list(table.index) == ["all", "all again", "none"]
        assert list(table["best_is"]) == ["the best", "cannot tell", "better"]
        share = np.mean([(load_pair(pair)[1] >= 0.5).mean() for pair in pairs])
        assert table.loc["none", "lead"] == pytest.approx(share)  # the IoU of "all foreground"
        assert table.loc["none", "lead_low"] > 0 and table.loc["none", "share"] == 1
        same = table.loc["all again"]
        assert same[["lead", "lead_low", "lead_high", "share"]].tolist() == [0, 0, 0, 0.5]

    @pytest.mark.parametrize(
        ("low", "high", "word"),
        [
            (0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "cannot tell"),
            (0.0, 0.0, "cannot tell"), (0.0, 0.1, "cannot tell"),
            (math.nan, math.nan, "cannot tell"),
        ],
    )  # fmt: skip
    def test_the_word_for_an_interval(self, low, high, word):
        assert verdict(low, high) == word

    def test_of_one_photo_nothing_is_told(self, tmp_path, pairs):
        paths = [save(tmp_path / "all.pth", bias=4.0), save(tmp_path / "none.pth", bias=-4.0)]
        table = compare(find_models(paths), pairs[:1]).table
        assert list(table["best_is"]) == ["the best", "cannot tell"]
        assert table["lead_low"].isna().all() and table["lead"][1] > 0

    def test_disagreement(self, tmp_path, pairs):
        biases = {"a": 4.0, "b": -4.0, "c": 0.0}
        models = [Model(n, save(tmp_path / f"{n}.pth", bias=bias)) for n, bias in biases.items()]
        board = compare(models, pairs)
        found = board.disagreements
        assert set(found["id"]) == {pair.id for pair in pairs}
        wanted = 1 / (1 + np.exp(-4.0)) - 1 / (1 + np.exp(4.0))
        assert found["difference"].to_numpy() == pytest.approx(wanted, abs=1 / 255)
        assert set(zip(found["first"], found["second"], strict=True)) <= {("a", "b"), ("b", "a")}
        assert compare(models[:1], pairs).disagreements.empty

    def test_the_most_disputed_photo_comes_first(self, tmp_path, pairs):
        models = [Model(f"{i}", save(tmp_path / f"{i}.pth", i)) for i in range(2)]
        found = compare(models, pairs).disagreements
        softs = [Predictor(model.path, "cpu") for model in models]
        apart = {}
        for pair in pairs:
            a, b = (predictor.predict(load_pair(pair)[0]) for predictor in softs)
            apart[pair.id] = np.abs(a - b).mean()
        # the small masks are averages, so they can only lose some of a difference
        assert (found["difference"] <= found["id"].map(apart) + 1 / 255).all()
        assert found["difference"].is_monotonic_decreasing

    def test_a_spoilt_one_is_named_and_the_others_go_on(self, tmp_path, pairs):
        write_whole(tmp_path / "spoilt.pth", b"these are no weights")
        models = find_models([tmp_path / "spoilt.pth", save(tmp_path / "good.pth")])
        board = compare(models, pairs)
        assert list(board.evaluations) == ["good.pth"]
        assert "damaged or not a checkpoint" in board.failed["spoilt.pth"]
        with pytest.raises(CheckpointError, match="damaged or not"):
            compare(models[:1], pairs)

    def test_each_gets_its_own_best_threshold(self, tmp_path, pairs):
        models = [Model(f"{b}", save(tmp_path / f"{b}.pth", bias=b)) for b in (-1.0, 1.0)]
        table = compare(models, pairs, "best").table.set_index("name")
        for bias in (-1.0, 1.0):  # all foreground is the best that either can do
            assert table.loc[f"{bias}", "threshold"] <= 1 / (1 + math.exp(-bias))
        assert table["lead"].tolist() == [0, 0]

    def test_no_photos(self, tmp_path):
        with pytest.raises(ValueError, match="nothing to evaluate"):
            compare([Model("a", save(tmp_path / "a.pth"))], [])

    def test_progress_sees_every_photo_of_every_network(self, tmp_path, pairs):
        seen = []

        def watch(pairs, name):
            for pair in pairs:
                seen.append((name, pair.id))
                yield pair

        models = [Model(f"{i}", save(tmp_path / f"{i}.pth", i)) for i in range(2)]
        compare(models, pairs, progress=watch)
        assert seen == [(name, pair.id) for name in "01" for pair in pairs]


def test_the_first_photo_is_a_warm_up(monkeypatch):
    """By a clock that only the predictor moves."""
    took = [60.0, 0.25, 0.75, 0.5]
    times = iter(np.cumsum([0, *took]).repeat(2)[1:-1])
    monkeypatch.setattr(leaderboard, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    seen = []
    predictor = SimpleNamespace(predict=seen.append)
    assert milliseconds(predictor, ["a", "b", "c"]) == 500 and seen == ["a", "a", "b", "c"]


def test_a_network_of_another_program_has_no_known_parameters(tmp_path, pairs):
    """A graph made here, that answers 0.7 everywhere."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight, bias = np.zeros((1, 3, 1, 1), np.float32), np.array([0.7], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight", "bias"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", kind, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", kind, ["N", 1, "H", "W"])],
        [onnx.numpy_helper.from_array(v, n) for n, v in (("weight", weight), ("bias", bias))],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "flat.onnx")
    models = find_models([tmp_path / "flat.onnx", save(tmp_path / "all.pth", bias=4.0)])
    table = compare(models, pairs).table.set_index("name")
    assert math.isnan(table.loc["flat.onnx", "parameters"])
    assert table.loc["flat.onnx", "iou"] == table.loc["all.pth", "iou"]  # all foreground
    assert "ONNX Runtime" in table.loc["flat.onnx", "runs_on"]
