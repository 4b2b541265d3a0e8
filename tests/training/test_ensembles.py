"""A recipe that asks for an ensemble: several trainings, one model."""

from __future__ import annotations

import pandas
import pytest
import torch
from safetensors.torch import load_file
from support.small_models import write_image_recipe, write_recipe

from impflow_zoo import Ensemble, create_model, evaluate, train
from impflow_zoo.data import open_toy
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import WEIGHTS
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.training.recipe import differences, read_recipe


def write(folder, **sections):
    path = write_recipe(folder, data={"validation_rows": 60, "dataset": None}, **sections)
    path.write_text("ensemble: 2\n" + path.read_text())
    return path


FRAME = pandas.DataFrame(open_toy("moons", 300).rows(range(300)).numpy(), columns=["x", "y"])


def test_seeds_are_trained_and_mixed(tmp_path):
    recipe = write(tmp_path / "recipe")
    out = tmp_path / "run"
    stopped = train(recipe, data=FRAME, out=out, max_minutes=0.0, progress=False)
    assert (stopped["ended"], stopped["members"]) == ("time", [])
    state = train(recipe, data=FRAME, out=out, resume=True, progress=False)
    model = create_model(out, verify=True)
    assert isinstance(model, Ensemble)
    parts = [create_model(out / f"seed-{seed}") for seed in (0, 1)]
    x = torch.tensor(FRAME[-60:].to_numpy()).float()
    torch.testing.assert_close(model.log_prob(x), Ensemble(parts).log_prob(x))
    assert state["members"] == [evaluate(part, x[:50]).value for part in parts]
    assert state["best"] == pytest.approx(evaluate(model, x[:50]).value)
    assert state["best"] >= sum(state["members"]) / 2
    assert read_recipe(out / "recipe.yaml").ensemble == 2
    assert read_recipe(out / "seed-1" / "recipe.yaml").training.seed == 1
    facts = TrainingFacts.read(out)
    assert (facts.steps, facts.parameters) == (8, sum(p.numel() for p in model.parameters()))
    with pytest.raises(ModelError, match="choose another --out"):
        train(recipe, data=FRAME, out=out, progress=False)


def test_all_trainings_of_an_ensemble_start_from_one_model(tmp_path):
    recipe, settings = write(tmp_path / "recipe"), {"data": FRAME, "progress": False}
    start = write_recipe(tmp_path / "one", data={"validation_rows": 60, "dataset": None})
    for name, seed in (("start", 5), ("other", 6)):
        train(start, out=tmp_path / name, seed=seed, **settings)
    whole, cut = tmp_path / "whole", {"out": tmp_path / "cut", **settings}
    given = {"init_from": str(tmp_path / "start")}
    train(recipe, out=whole, **given, **settings)
    train(recipe, max_minutes=0.0, **given, **cut)  # stops in the first training
    with pytest.raises(ModelError, match="start from start: name it again with --init-from"):
        train(recipe, resume=True, **cut)
    with pytest.raises(ModelError, match="started from start: so must all"):
        train(recipe, resume=True, init_from=str(tmp_path / "other"), **cut)
    train(recipe, resume=True, **given, **cut)
    for name in ("seed-0", "seed-1"):
        one, other = (load_file(run / name / WEIGHTS) for run in (whole, cut["out"]))
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    with pytest.raises(ModelError, match="own weights: leave --init-from out"):
        train(recipe, resume=True, **given, **cut)


def test_an_ensemble_goes_on_in_a_folder_of_its_own_alone(tmp_path):
    """What is there is the result of another training, which would be lost."""
    recipe, single = write(tmp_path / "recipe"), write(tmp_path / "single")
    single.write_text(single.read_text().replace("ensemble: 2\n", ""))
    three = write(tmp_path / "three")
    three.write_text(three.read_text().replace("ensemble: 2", "ensemble: 3"))
    ensemble, one = tmp_path / "ensemble", tmp_path / "one"
    train(recipe, data=FRAME, out=ensemble, progress=False)
    train(single, data=FRAME, out=one, progress=False)
    before = [(out / "model.safetensors").read_bytes() for out in (ensemble, one)]
    for path, out, seed, message in (
        (recipe, one, None, "holds a single training, not an ensemble"),
        (recipe, ensemble, 7, "was started with seed 0, not 7"),
        (three, ensemble, None, r"was trained with another recipe \(ensemble\)"),
    ):
        with pytest.raises(ModelError, match=message):
            train(path, data=FRAME, out=out, seed=seed, resume=True, progress=False)
    assert before == [(out / "model.safetensors").read_bytes() for out in (ensemble, one)]
    assert train(recipe, data=FRAME, out=ensemble, resume=True, progress=False)["members"]


def test_a_recipe_with_an_ensemble_is_another_one(tmp_path):
    recipe = read_recipe(write(tmp_path))
    assert differences(recipe, read_recipe(write_recipe(tmp_path / "one"))) == ["ensemble"]
    image = write_image_recipe(tmp_path / "image", "a set")
    image.write_text("ensemble: 2\n" + image.read_text())
    with pytest.raises(ConfigError, match="ensemble is for tables"):
        read_recipe(image)
    image.write_text(image.read_text().replace("ensemble: 2", "ensemble: 0"))
    with pytest.raises(ConfigError, match="ensemble=0: 1 to 100 expected"):
        read_recipe(image)
