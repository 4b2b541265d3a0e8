"""Every model of the zoo is what its files say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from support.dealt import first_of_each
from support.kinds import kind

from impflow_zoo import create_model, evaluate, list_models
from impflow_zoo.evaluation import Result
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import (
    CARD,
    CONFIG,
    GOLDEN,
    RECIPE,
    SCORES,
    TEST_ROWS,
    TRAINING,
    WEIGHTS,
)
from impflow_zoo.models.folder import ConfigFile, ModelFolder
from impflow_zoo.models.registry import locate, recipe_path, zoo_folder
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.training.recipe import fingerprint, read_recipe
from impflow_zoo.zoo.record import Record
from impflow_zoo.zoo.sending import parcels

FOLDERS = sorted(path.parent for path in zoo_folder().glob(f"*/{RECIPE}"))
LARGE = [path for path in FOLDERS if path.name.endswith(("-cifar10", "-imagenet64-5bit"))]
IMAGES = [path for path in FOLDERS if "-mnist" in path.name]  # certified in seconds
IMPLICIT, RESIDUAL = (
    {path.name.removeprefix(family) for path in FOLDERS if path.name.startswith(family)}
    for family in ("impflow-", "resflow-")
)
WITH_ROWS_FIRST = sorted(FOLDERS, key=lambda path: not (path / TEST_ROWS).is_file())

every_model = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)


def config_file(folder: Path) -> ConfigFile:
    if not (folder / CONFIG).is_file():
        pytest.skip("the folder has no config.json yet")
    return ModelFolder.open(folder).config()


def needs_weights(folder: Path) -> None:
    if not (folder / WEIGHTS).is_file():
        pytest.skip("the weights are not in this folder")


def score(folder: Path, limit: int | None = None) -> Result:
    """The score that the card speaks of, on rows that a model ships, or its sibling of the pair."""
    data = read_recipe(folder / RECIPE).data.dataset or ""
    if (folder / TEST_ROWS).is_file() or data.startswith("toy:"):
        return evaluate(folder, limit=limit)
    for sibling in sorted(zoo_folder().glob(f"*-{folder.name.partition('-')[2]}")):
        if (sibling / TEST_ROWS).is_file():
            return evaluate(folder, str(sibling / TEST_ROWS), limit=limit)
    pytest.skip("the data of this model are not here")


def test_the_default_is_there():
    assert "impflow-power-plant" in list_models(pretrained=True)
    assert locate("impflow-power-plant") == str(zoo_folder() / "impflow-power-plant")
    assert list_models(pretrained=None) == [folder.name for folder in FOLDERS]
    assert list_models() == [folder.name for folder in FOLDERS if (folder / CONFIG).is_file()]


@every_model
def test_the_weights_are_those_of_the_recipe(folder):
    """Staging refuses a folder whose recipe was changed after its weights were trained."""
    if not (folder / TRAINING).is_file():
        pytest.skip("no weights")
    assert TrainingFacts.read(folder).recipe == fingerprint(read_recipe(folder / RECIPE))


@every_model
def test_the_recipe_makes_the_model(folder):
    stated, recipe = config_file(folder), read_recipe(folder / RECIPE)
    assert recipe.model == stated.model
    config = recipe.config
    if config.kind != "image" and config.columns == ():  # then those of the data are taken
        config = replace(config, columns=stated.config.columns)
    assert config == stated.config


@pytest.mark.slow
@pytest.mark.parametrize("folder", LARGE, ids=lambda path: path.name)
@torch.no_grad()
def test_the_weights_give_the_golden_batch(folder):
    golden = load_file(folder / GOLDEN)
    model = create_model(folder, dtype=torch.float64)
    torch.testing.assert_close(model.encode(golden["inputs"]), golden["latents"])
    torch.testing.assert_close(model.log_prob(golden["inputs"]), golden["log_prob"])


@pytest.mark.parametrize(
    "folder",
    [pytest.param(f, marks=pytest.mark.slow if f in LARGE + IMAGES else ()) for f in FOLDERS],
    ids=lambda path: path.name,
)
def test_the_weights_give_the_golden_batch_and_the_certificate(folder):
    needs_weights(folder)
    model = create_model(folder, verify=True)
    counted = sum(p.numel() for p in model.parameters())
    assert Record(ModelFolder(folder)).parameters == counted
    certificate = config_file(folder).certificate
    assert len(certificate) == sum(len(block.nets) for block in model.blocks())
    assert all(c.margin is not None for c in certificate)


@pytest.mark.parametrize("folder", first_of_each(kind, WITH_ROWS_FIRST), ids=lambda path: path.name)
def test_the_weights_score_the_rows_as_the_card_says(folder):
    """The first ones; their scores are kept, and are those of the card on average."""
    needs_weights(folder)
    result, kept = Record(ModelFolder.open(folder)).entry, load_file(folder / SCORES)["metric"]
    assert result is not None, "there is no results.json: stage the model"
    assert (len(kept), float(kept.mean())) == (result.n, pytest.approx(result.value, abs=1e-4))
    found = score(folder, limit=100)
    torch.testing.assert_close(found.per_row.float(), kept[:100], atol=2e-3, rtol=0)
    assert (found.metric, found.logdet) == (result.metric, result.logdet)


@pytest.mark.slow
@every_model
def test_the_card_says_what_the_weights_score(folder):
    needs_weights(folder)
    result = Record(ModelFolder.open(folder)).entry
    assert result is not None, "there is no results.json: stage the model"
    found = score(folder)
    assert found.value == pytest.approx(result.value, abs=1e-4)
    assert found.stderr == pytest.approx(result.stderr, abs=1e-4)
    assert (found.metric, found.n, found.logdet) == (result.metric, result.n, result.logdet)


@every_model
def test_the_card_can_be_read_by_the_hub(folder):
    needs_weights(folder)
    card = ModelCard.load(folder / CARD)
    assert card.data.library_name == "impflow_zoo"
    assert card.data.license == "mit"
    assert f"{Record(ModelFolder.open(folder)).entry.value:.3f}" in card.text
    for picture in ("density.png", "curve.png"):
        assert (folder / picture).is_file() == (picture in card.text)


@pytest.mark.parametrize("data", sorted(IMPLICIT & RESIDUAL))
def test_both_of_a_pair_have_as_many_parameters(data):
    pair = (zoo_folder() / f"{family}-{data}" for family in ("impflow", "resflow"))
    recipes = [read_recipe(path / RECIPE) for path in pair]
    with torch.device("meta"):
        models = [model_class(recipe.model)(recipe.config) for recipe in recipes]
    own, other = (sum(p.numel() for p in model.parameters()) for model in models)
    assert own == pytest.approx(other, rel=0.02)


def test_an_unknown_name_is_told_the_close_ones():
    with pytest.raises(ModelError, match=r"no model 'impflow-power-plnat'.*impflow-power-plant"):
        create_model("impflow-power-plnat")


def test_a_folder_of_a_model_s_name_is_told_from_the_model(tmp_path, monkeypatch):
    name, zoo = "impflow-power-plant", zoo_folder()
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for meant in (locate, lambda name: parcels([name])):
        with pytest.raises(ModelError, match=rf"write \./{name} for the folder, .*{name}"):
            meant(name)
    with pytest.raises(ModelError, match="a folder here and a model of"):
        locate(f"{name}@v1")
    (tmp_path / f"{name}@v2").mkdir()
    (tmp_path / name).rmdir()
    with pytest.raises(ModelError, match=rf"write \./{name}@v2 for the folder, .*{name}@v2"):
        locate(f"{name}@v2")
    for path in (f"./{name}", Path(name), zoo / name, f"./{name}@v2"):
        assert locate(path) == str(path)
    monkeypatch.chdir(zoo)
    assert locate(name) == name


def test_a_recipe_is_a_file_a_folder_or_a_name_of_the_zoo(tmp_path, monkeypatch):
    name, zoo = "impflow-power-plant", zoo_folder()
    monkeypatch.chdir(tmp_path)
    assert recipe_path(name) == zoo / name / RECIPE
    for given in ("recipe.yaml", "own/recipe.yaml", Path(name) / RECIPE):
        assert recipe_path(given) == Path(given)
    (tmp_path / name).mkdir()
    with pytest.raises(ModelError, match=rf"write \./{name} for the folder"):
        recipe_path(name)
    for given in (f"./{name}", Path(name)):
        assert recipe_path(given) == Path(name) / RECIPE
    with pytest.raises(ModelError, match=r"no recipe or folder of that name .*resflow-power-plant"):
        recipe_path("resflow-power-plnt")


def test_a_model_is_asked_for_in_one_revision():
    for model in ("owner/name@v1", "impflow-power-plant@v1"):
        with pytest.raises(ModelError, match="@v1 and revision='v2'"):
            create_model(model, revision="v2")


def test_weights_that_are_not_here_come_from_the_namespace(tmp_path, monkeypatch):
    source = zoo_folder() / "impflow-power-plant"
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / CONFIG).write_bytes((source / CONFIG).read_bytes())
    monkeypatch.setattr("impflow_zoo.models.registry.zoo_folder", lambda: tmp_path)
    monkeypatch.delenv("IMPFLOW_ZOO_NAMESPACE", raising=False)
    assert locate("flow@v1") == "impflow-zoo/flow@v1"
    monkeypatch.setenv("IMPFLOW_ZOO_NAMESPACE", "mine")
    assert locate("flow@v1") == "mine/flow@v1"


@pytest.mark.parametrize("name", ["impflow-rings", "resflow-checkerboard", "impflow-kin8nm"])
def test_a_model_that_was_used_is_saved_as_it_was(name, tmp_path):
    model = create_model(name)
    model.log_prob(model.sample(3))
    model.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (zoo_folder() / name / WEIGHTS).read_bytes()
