"""Time to quality: both sides on made-up images, and when a curve reaches a value."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from public_code import give_back, public_model
from support.command_line import call
from support.image_models import make
from support.image_sets import photograph, save
from support.public_checkout import made_up
from time_to_quality import Side, factor, in_words, main, minutes_until, sides, take
from variants import read_changed

from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.training.recipe import TrainingSettings, read_recipe
from impflow_zoo.training.run import open_splits
from impflow_zoo.transforms.base import NotFiniteError

CURVE = [(1.0, 5.0), (2.0, 4.0), (4.0, 3.0), (5.0, 3.5)]
SETTINGS = TrainingSettings(batch_size=4, warmup_steps=0, learning_rate=1e-2, ema_decay=0.5)


def small() -> torch.nn.Module:
    return make("whitened", channels=1, blocks=(1,), width=3).float()


@pytest.mark.parametrize(
    ("value", "minutes"), [(6.0, 1.0), (5.0, 1.0), (4.5, 1.5), (3.5, 3.0), (3.0, 4.0)]
)
def test_a_curve_reaches_a_value_on_the_line_between_two_points(
    value: float, minutes: float
) -> None:
    assert minutes_until(CURVE, value) == pytest.approx(minutes)


def test_the_factor_is_taken_at_the_best_value_of_the_public_code() -> None:
    assert minutes_until(CURVE, 2.9) == math.inf
    public = [(1.0, 6.0), (8.0, 4.0), (9.0, 4.2)]
    assert factor({"ours": CURVE, "public code": public}) == (4.0, pytest.approx(4.0))
    assert factor({"ours": public, "public code": CURVE}) == (3.0, 0.0)


def test_the_factor_is_a_bound_where_ours_was_there_before_it_was_scored() -> None:
    slow = [(1.0, 7.0), (10.0, 5.5)]
    assert "at least 10.0 times sooner" in in_words({"ours": CURVE, "public code": slow})
    slow = [(1.0, 7.0), (8.0, 4.0)]
    assert "best: 4.0 times sooner" in in_words({"ours": CURVE, "public code": slow})


@pytest.mark.slow
def test_the_public_code_starts_from_our_density_and_its_weights_come_back(tmp_path: Path) -> None:
    model = small()
    theirs, after_step = public_model(model, made_up(tmp_path))
    x = torch.rand(4, *model.config.shape)
    assert torch.allclose(theirs.eval().log_prob(x), model.log_prob(x), atol=1e-3)
    side = Side(theirs, SETTINGS, model, give_back, after_step)
    before = copy.deepcopy(model.state_dict())
    for _ in range(3):
        side.train(x, 0.1)
    give_back(theirs, model)
    assert torch.allclose(theirs.eval().log_prob(x), model.log_prob(x), atol=1e-3)
    moved = [key for key, value in model.state_dict().items() if not value.equal(before[key])]
    assert {"net_x", "net_z"} <= {part for key in moved for part in key.split(".")}


def test_a_side_goes_on_from_where_it_was_saved(tmp_path: Path) -> None:
    start, ours = small(), small()
    whole = Side(copy.deepcopy(start), SETTINGS, ours, take)
    first, second = (Side(copy.deepcopy(start), SETTINGS, ours, take) for _ in range(2))
    x = torch.rand(4, *start.config.shape)
    for part in (0.0, 0.25):
        whole.train(x, part)
        first.train(x, part)
    first.save(tmp_path / "side.pt")
    second.load(tmp_path / "side.pt")
    for side in (whole, second):
        side.train(x, 0.5)
    assert second.step == 3
    for one, other in zip(whole.averaged, second.averaged, strict=True):
        assert torch.equal(one, other)


def test_a_step_that_fails_is_not_applied_and_takes_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small()
    side = Side(model, SETTINGS, model, take)
    before = copy.deepcopy(model.state_dict())

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise NotFiniteError("made up")

    monkeypatch.setattr(model, "log_prob", fail)
    side.train(torch.rand(4, *model.config.shape), 0.1)
    assert side.step == 1
    assert side.seconds > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_it_draws_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(torch, "set_flush_denormal", bool)  # would stay for all later tests
    draws = numpy.random.default_rng(0)
    sizes = {"train": 70, "validation": 4}
    splits = {name: [photograph(draws, 4, 4) for _ in range(n)] for name, n in sizes.items()}
    config = {"kind": "image", "image_size": [4, 4], "blocks": [1], "width": 3, "whiten": True}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"model": "ImpFlow", "config": config}))
    given = ("--data", save(tmp_path / "set", **splits), "--out", tmp_path / "out")
    public = ("--public", made_up(tmp_path / "code"), "--minutes", "1e-6")

    def script() -> None:
        with in_one_line():
            main()

    for more in ((), ("--resume",)):
        done = call(script, "time_to_quality.py", recipe, *given, *public, *more)
        assert done.code == 0, done.err
        assert "times sooner by ours" in done.out
    curves = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert [len(curve) for curve in curves.values()] == [10, 10]
    assert (tmp_path / "out" / "curves.png").exists()
    refused = call(script, "x", recipe, *given, "--public", tmp_path / "set", "--minutes", "1e-6")
    assert refused.code == 2


def test_the_public_side_may_have_other_settings_and_needs_them_for_frequencies(
    tmp_path: Path,
) -> None:
    config = {"kind": "image", "image_size": [4, 4], "blocks": [1], "width": 3}
    config |= {"activation": "sin", "frequency": 0.4}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "ImpFlow", "config": config}))
    code = made_up(tmp_path / "code")
    draws = numpy.random.default_rng(0)
    splits = {"train": 70, "validation": 4}
    images = {name: [photograph(draws, 4, 4) for _ in range(n)] for name, n in splits.items()}
    recipe = read_recipe(path)
    rows, _ = open_splits(recipe, str(save(tmp_path / "set", **images)))
    with pytest.raises(ConfigError, match="frequencies"):
        sides(recipe, recipe, rows, code)
    set_to = ["config.frequency=null", "config.activation=lipswish"]
    both = sides(recipe, read_changed(path, set_to), rows, code)
    assert both["ours"].model.config.frequency == 0.4
    assert both["public code"].ours.config.activation == "lipswish"
