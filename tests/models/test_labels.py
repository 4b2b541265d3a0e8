"""Images given a label: the label is a column of the data set, the nets see it as one-hot."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image
from support.blocks import dense_logdet
from support.command_line import command as command_line
from support.image_models import draw, make
from support.image_sets import image_set, pictures
from support.small_models import write_image_recipe

from impflow_zoo import ImageConfig, create_model, evaluate, training
from impflow_zoo.data import DataError
from impflow_zoo.models.fields import ConfigError

GIVEN = {"context_columns": ["label"], "classes": 3}


def labels(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("factor_out", [False, True])
def test_it_is_a_map_and_its_inverse_for_each_label(factor_out):
    model = make(factor_out=factor_out, **GIVEN)
    x, given = draw(model), labels(0, 1, 2)
    z, forth = model.transform(x, given)
    back, logabsdet = model.transform.inverse(z, given)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(logabsdet, -forth)
    torch.testing.assert_close(model.decode(model.encode(x, given), given), x)
    assert not torch.allclose(model.log_prob(x, given), model.log_prob(x, labels(1, 2, 0)))
    torch.testing.assert_close(forth, dense_logdet(lambda x: model.encode(x, given), x))
    assert model.sample(2, given).shape == (3, 2, *model.config.shape)


def test_a_density_of_one_label_is_saved_with_it(tmp_path):
    make(**GIVEN).float().save_pretrained(tmp_path)
    assert create_model(tmp_path, verify=True).config.classes == 3


@pytest.mark.parametrize("label", [-1, 3, 0.5])
def test_a_label_that_there_is_not_is_named(label):
    model = make(**GIVEN)
    with pytest.raises(ValueError, match=f"{label:g} is not a label: .*0 to 2"):
        model.log_prob(draw(model, 2), labels(0, label))


def test_nothing_is_answered_without_a_label():
    model = make(**GIVEN)
    for call in (model.rsample, lambda n: model.transform(draw(model, n))):
        with pytest.raises(ValueError, match=r"needs a context of shape \[B, 1\]"):
            call(2)


@pytest.mark.parametrize(
    "given",
    [torch.eye(3).double(), torch.ones(3).double(), torch.ones(3, 1).long()],
    ids=["one-hot", "a vector", "whole numbers"],
)
def test_the_map_takes_labels_as_a_column_alone(given):
    """The first column of one-hot labels is no label."""
    model = make(**GIVEN)
    x = draw(model)
    for call, rows in ((model.transform, x), (model.transform.inverse, x.flatten(1))):
        with pytest.raises(ValueError, match=r"context of shape .*: .*\[3, 1\] of type"):
            call(rows, given)


def test_a_recipe_reads_labels_trains_scores_and_samples(tmp_path):
    count = 12
    data = image_set(tmp_path, pictures(count), label=[i % 3 for i in range(count)])
    recipe = write_image_recipe(tmp_path, data, config=GIVEN)
    training.train(recipe, out=tmp_path / "run", progress=False)
    model = create_model(tmp_path / "run", verify=True)
    result = evaluate(model, data, "test")
    assert (result.n, result.metric, result.predictive) == (count, "bits_per_dim", ())
    assert result.round_trip < 1e-4
    out = tmp_path / "two.png"
    arguments = ["sample", tmp_path / "run", "-n", "4", "--given", "label=2", "--out", out]
    assert command_line(*arguments).code == 0
    refused = command_line(*arguments[:5], "label=11", *arguments[6:])
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "11 is not a label" in refused.err
    picture = tmp_path / "rows.png"
    arguments = ["evaluate", tmp_path / "run", "--dataset", data, "--picture", picture]
    assert command_line(*arguments).code == 0
    assert out.is_file()
    assert picture.is_file()


def test_a_set_without_the_column_is_refused(tmp_path):
    data = image_set(tmp_path, pictures(4))
    with pytest.raises(DataError, match="no column 'label', only picture"):
        training.train(write_image_recipe(tmp_path, data, config=GIVEN), out=tmp_path / "run")


def test_folders_of_fewer_labels_than_the_model_has_are_refused(tmp_path):
    """Folders are numbered by the alphabet: without cats a dog would be number 0."""
    data = tmp_path / "data"
    for number, name in enumerate(["cat", "dog", "dog", "fish"]):
        (data / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures(4)[number]).save(data / name / f"{number}.png")
    recipe = write_image_recipe(tmp_path, str(data), config=GIVEN, data={"train": "train"})
    training.train(recipe, out=tmp_path / "run", progress=False)
    assert evaluate(tmp_path / "run", data, "train").n == 4
    shutil.rmtree(data / "cat")
    with pytest.raises(DataError, match=r"2 labels \(dog, fish\), the model 3"):
        evaluate(tmp_path / "run", data, "train")


BAD = {
    "no classes": ({"context_columns": ["label"]}, "classes=None: between 2 and 256"),
    "no column": ({"classes": 3}, r"context_columns=\(\): the name of one column"),
    "wide": (
        {"context_columns": ["label"], "classes": 3, "context_features": 4},
        "context_features=4: 1 for a label",
    ),
    "two": ({"context_columns": ["a", "b"], "classes": 3}, "the name of one column"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        ImageConfig(**settings)
