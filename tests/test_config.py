"""The settings of a training: one table of names, defaults and limits for everybody."""

import ast
import json
import math
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unetlib import config
from unetlib.config import TrainConfig, TrainOptions, read_options
from unetlib.data.augment import PRESETS
from unetlib.data.cache import CACHES
from unetlib.losses import build_loss
from unetlib.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
NUMBER = [None, "1", True, [1], math.nan, math.inf]
WHOLE = [*NUMBER, 1.5, 2.0]
TEXT = [None, 3, True, ["a"]]
SWITCH = [None, 1, "yes", "true"]
# what every setting refuses, and what at the edge of the sensible it takes
REFUSED = {
    "epochs": [*WHOLE, 0, -1],
    "lr": [*NUMBER, 0, 0.0, -1e-9],
    "encoder_lr": [*NUMBER, 0, -0.1],
    "optimizer": [*TEXT, "lion", "Adam", ""],
    "weight_decay": [*NUMBER, -1e-9],
    "momentum": [*NUMBER, -0.1, 1, 1.0],
    "schedule": [*TEXT, "linear", ""],
    "warmup": [*NUMBER, -1.1, 1.0],
    "patience": [*WHOLE, 0],
    "step_epochs": [*WHOLE, 0],
    "gamma": [*NUMBER, 0, 1],
    "final_lr": [*NUMBER, 0, 1],
    "early_stop": [*WHOLE, -1],
    "clip": [*NUMBER, -1],
    "accumulate": [*WHOLE, 0],
    "ema": [*NUMBER, -0.1, 1],
    "precision": [*TEXT, "fp16", "double"],
    "compile": SWITCH,
    "recompute": SWITCH,
    "seed": [*WHOLE, -1, 2**63],
    "source": TEXT,
    "source_root": TEXT,
    "data_dir": TEXT,
    "outputs_dir": TEXT,
    "count": [*WHOLE, 1],
    "val_fraction": [*NUMBER, -0.1, 1.0],
    "exclude": TEXT,
    "image_size": [*WHOLE, 0, -128],
    "batch_size": [*WHOLE, 0],
    "augment": [*TEXT, "heavy", ""],
    "sampling": [*TEXT, "random", ""],
    "cache": [*TEXT, "ram"],
    "cache_dir": TEXT,
    "workers": [*WHOLE, -2],
    "model": TEXT,
    "base": [*WHOLE, -1],
    "depth": [*WHOLE, -1],
    "pretrained": SWITCH,
    "loss": TEXT,
    "init_from": TEXT,
    "resume": [*TEXT, "maybe", False],
    "device": TEXT,
    "processes": [*WHOLE, 0],
    "timelapse": SWITCH,
    "tracking": [*TEXT, "mlflow"],
}
TAKEN = {
    "epochs": [1, 10**6], "lr": [1e-12, 1, 5.0], "weight_decay": [0, 10.0], "momentum": [0, 0.999],
    "warmup": [-1, 0, 0.999], "gamma": [1e-6, 0.999], "final_lr": [1e-6, 0.999], "clip": [0, 1e9],
    "early_stop": [0], "ema": [0, 0.9999], "seed": [0, 2**63 - 1], "count": [2], "workers": [-1, 0],
    "base": [0], "depth": [0], "resume": ["yes", "no"], "tracking": ["wandb", "none"],
}  # fmt: skip


def test_every_setting_has_its_refused_values_here():
    assert list(REFUSED) == [f.name for f in fields(TrainOptions)]


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_make_no_sense_are_refused_by_name_and_value(name):
    for value in REFUSED[name]:
        with pytest.raises(ValueError) as error:
            TrainOptions(**{name: value})
        assert name in str(error.value) and str(value) in str(error.value)
    for value in TAKEN.get(name, []):
        assert getattr(TrainOptions(**{name: value}), name) == value


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="compile and recompute do not go together"):
        TrainOptions(compile=True, recompute=True)


def test_an_unknown_choice_lists_the_known_and_the_nearest():
    with pytest.raises(ValueError) as error:
        TrainConfig(schedule="cosin")
    assert str(error.value) == (
        "schedule is one of plateau, step, exponential, cosine, onecycle, constant, not 'cosin'. "
        "Did you mean 'cosine'?"
    )
    with pytest.raises(ValueError, match=r"adam, adamw, sgd, not 'qqq'\.$"):  # nothing is near
        TrainConfig(optimizer="qqq")


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(ValueError) as error:
        read_options({"epoch": 3}, "my.yaml")
    said = str(error.value)
    assert said.startswith("my.yaml: there is no setting 'epoch'. Did you mean 'epochs'?")
    assert all(f.name in said for f in fields(TrainOptions))
    with pytest.raises(ValueError, match="Did you mean 'img_size'"):  # an earlier system's name
        read_options({"img-sise": 3})
    with pytest.raises(ValueError, match="there is no setting 1"):  # YAML keys may be numbers
        read_options({1: 2})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"img_size": 64, "pretrained_checkpoint": "a"}, {"image_size": 64, "init_from": "a"}),
        ({"data-root": "x"}, {"source_root": "x", "source": "folder"}),
        ({"data_root": "x", "source": "pennfudan"}, {"source_root": "x", "source": "pennfudan"}),
        ({"source_root": ""}, {"source_root": ""}),
        ({"batch-size": "4", "lr": "1e-3", "seed": 7}, {"batch_size": 4, "lr": 1e-3, "seed": 7}),
        ({"resume": True}, {"resume": "yes"}),
        ({"resume": False}, {"resume": "no"}),
        ({"timelapse": False}, {"timelapse": False}),
        ({}, {}),
    ],
    ids=str,
)
def test_names_and_values_that_are_understood(given, expected):
    found = read_options(given)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in expected.items()
    }
    TrainOptions(**found)


@pytest.mark.parametrize(
    "given", [{"img_size": 1, "image_size": 1}, {"batch-size": 1, "batch_size": 2}], ids=str
)
def test_a_name_twice_is_refused(given):
    with pytest.raises(ValueError, match="is given twice, once as"):
        read_options(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"epochs": "1e2"}, "a whole number, not '1e2'"), ({"lr": "fast"}, "a number, not 'fast'")],
)
def test_a_text_that_is_no_number_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        read_options(given)


def test_options_win_over_a_file_and_photos_of_ones_own_over_synthetic_ones():
    file = {"source": "synthetic", "epochs": 3, "lr": 0.1}
    assert read_options({"lr": 0.2}, base=file) == {**file, "lr": 0.2}
    assert read_options({"data_root": "x"}, base=file)["source"] == "folder"
    assert read_options({"data_root": "x"}, base={"source": "pennfudan"})["source"] == "pennfudan"
    assert file == {"source": "synthetic", "epochs": 3, "lr": 0.1}


def test_the_part_that_fit_takes():
    options = TrainOptions(epochs=7, lr=0.5, ema=0.9, clip=0.0, model="u2net")
    part = options.train_config
    assert type(part) is TrainConfig
    assert part.to_dict() == {n: v for n, v in asdict(options).items() if n in asdict(part)}
    assert (part.epochs, part.lr, part.ema, part.clip) == (7, 0.5, 0.9, 0.0)
    assert len(asdict(part)) == len(fields(TrainConfig)) < len(fields(TrainOptions))


def test_model_arguments_are_those_that_were_set():
    assert TrainOptions().model_args == {}
    assert TrainOptions(base=8).model_args == {"base": 8}
    assert TrainOptions(depth=3, pretrained=True).model_args == {"depth": 3, "pretrained": True}


def test_names_agree_with_those_who_use_them():
    """config imports nothing heavy, so it repeats some names."""
    assert config.AUGMENTATIONS == PRESETS and config.CACHES == CACHES
    assert TrainOptions().model in MODELS
    build_loss(TrainOptions().loss)


def test_the_notebooks_parameters_are_these_settings():
    notebook = json.loads((ROOT / "notebooks" / "03_train.ipynb").read_text(encoding="utf-8"))
    (cell,) = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    statements = ast.parse("".join(cell["source"])).body
    found = {s.targets[0].id: ast.literal_eval(s.value) for s in statements}
    assert len(found) > 25 and found.items() <= asdict(TrainOptions()).items()


def settings(f):
    kind, limits = type(f.default), f.metadata
    if limits["choices"]:
        return st.sampled_from(limits["choices"])
    low = limits["low"] if limits["low"] is not None else limits["above"]
    if kind is float:
        bounds = {"exclude_min": limits["above"] is not None, "exclude_max": bool(limits["below"])}
        return st.floats(low, limits["below"] or 1e300, **bounds)
    return {
        int: st.integers(low, (limits["below"] or 2**40) - 1) if low is not None else None,
        bool: st.booleans(),
        str: st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9),
    }[kind]


@given(st.fixed_dictionaries({f.name: settings(f) for f in fields(TrainOptions)}))
def test_settings_survive_yaml(values):
    options = TrainOptions(**values | {"recompute": values["recompute"] and not values["compile"]})
    text = yaml.safe_dump(asdict(options), allow_unicode=True)
    assert TrainOptions(**read_options(yaml.safe_load(text))) == options
