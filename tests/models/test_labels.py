"""Images given a label: the label is a column of the data set, the nets see it as one-hot."""

from __future__ import annotations

import datasets
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
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.rows import open_rows

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
    assert "label=11 is not a label; they are the numbers from 0 to 2" in refused.err
    picture = tmp_path / "rows.png"
    arguments = ["evaluate", tmp_path / "run", "--dataset", data, "--picture", picture]
    assert command_line(*arguments).code == 0
    assert out.is_file()
    assert picture.is_file()


def test_a_set_without_the_column_is_refused(tmp_path):
    data = image_set(tmp_path, pictures(4))
    with pytest.raises(DataError, match="no column 'label', only picture"):
        training.train(write_image_recipe(tmp_path, data, config=GIVEN), out=tmp_path / "run")


def folders(place, *names):
    """A folder of pictures for each name; all pictures differ."""
    for number, name in enumerate(names):
        (place / name).mkdir(parents=True)
        Image.fromarray(pictures(len(names))[number]).save(place / name / f"{number}.png")
    return str(place)


def recipe_of(place, data, names):
    """A recipe of a model whose labels have names."""
    given = {"context_columns": ["label"], "class_names": names}
    return write_image_recipe(place, data, config=given, data={"train": "train"})


def labels_of(data, **settings):
    """The last channel of the rows, and the rows without it."""
    config = ImageConfig(image_size=(8, 8), context_columns=("label",), **settings)
    source = open_rows(config, data, None)
    rows = source.rows(range(len(source)))
    return rows[:, -1, 0, 0].tolist(), rows[:, :-1]


def test_names_of_folders_are_found_among_the_names_of_the_model(tmp_path):
    """Sets number their folders by the alphabet: without cats a dog would be number 0."""
    names = ("horse", "cat", "dog")
    assert labels_of(folders(tmp_path / "a", *names), class_names=names)[0] == [1, 2, 0]
    assert labels_of(folders(tmp_path / "b", "dog", "horse"), class_names=names)[0] == [2, 0]
    with pytest.raises(DataError, match=r"labels cow, dog, the model has horse, cat, dog$"):
        labels_of(folders(tmp_path / "c", "dog", "cow"), class_names=names)


def test_pictures_of_one_label_are_scored_too(tmp_path):
    names = ("cat", "dog", "horse")
    assert labels_of(folders(tmp_path / "data", "dog"), class_names=names)[0] == [1]
    with pytest.raises(DataError, match="labels flat, the model has cat, dog, horse"):
        labels_of(folders(tmp_path, "flat") + "/flat", class_names=names)


def test_folders_called_by_numbers_have_these_numbers(tmp_path):
    """As text, 10 comes before 2."""
    data = folders(tmp_path / "all", *map(str, range(11)))
    assert labels_of(data, classes=11)[0] == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    with pytest.raises(DataError, match=r"labels 0, 1, 10, .* numbers from 0 to 9: .*class_names"):
        labels_of(data, classes=10)


def test_folders_with_names_need_a_model_with_names(tmp_path):
    with pytest.raises(DataError, match=r"labels cat, dog, .* names in config\.class_names"):
        labels_of(folders(tmp_path / "data", "cat", "dog"), classes=2)


def test_labels_in_a_column_of_text_are_found_too(tmp_path):
    texts = {"label": datasets.Value("string")}
    data = image_set(tmp_path, pictures(3), texts, label=["dog", "cat", "dog"])
    assert labels_of(data, class_names=("cat", "dog"))[0] == [1, 0, 1]
    with pytest.raises(DataError, match="row 0 has the label 'dog', the model has cat, cow"):
        labels_of(data, class_names=("cat", "cow"))


def test_where_names_are_numbers_a_number_is_a_name(tmp_path):
    data = image_set(tmp_path, pictures(3), label=[3, 8, 5])
    assert labels_of(data, class_names=("3", "5", "8"))[0] == [0, 2, 1]
    with pytest.raises(DataError, match="row 0 has the label 3, the model has 1, 2, 8"):
        labels_of(data, class_names=("1", "2", "8"))


def test_held_out_rows_are_of_all_labels_also_if_these_are_text(tmp_path):
    texts = {"label": datasets.Value("string")}
    data = image_set(tmp_path, pictures(20), texts, label=["cat"] * 10 + ["dog"] * 10)
    config = ImageConfig(image_size=(8, 8), context_columns=("label",), class_names=("cat", "dog"))
    mixed = open_rows(config, data, None).mixed()
    assert set(mixed.rows(range(10))[:, -1, 0, 0].tolist()) == {0, 1}


def test_names_in_another_order_are_no_start(tmp_path):
    names = ["cat", "dog", "horse"]
    data = folders(tmp_path / "data", *names)
    training.train(recipe_of(tmp_path, data, names), out=tmp_path / "run", progress=False)
    recipe = recipe_of(tmp_path, data, names[::-1])
    with pytest.raises(ModelError, match="has class_names .*mean something else"):
        training.train(recipe, out=tmp_path / "other", init_from=str(tmp_path / "run"))


def test_a_number_beyond_the_labels_of_the_model_names_its_row(tmp_path):
    data = image_set(tmp_path, pictures(3), label=[0, 1, 2])
    with pytest.raises(DataError, match="row 2 has the label 2, .* numbers from 0 to 1"):
        labels_of(data, classes=2)


def test_names_are_kept_with_a_model_and_choose_its_samples(tmp_path):
    names = ["horse", "cat", "dog"]
    data = folders(tmp_path / "data", *names)
    training.train(recipe_of(tmp_path, data, names), out=tmp_path / "run", progress=False)
    assert evaluate(tmp_path / "run", data, "train").n == 3
    (tmp_path / "given.csv").write_text("label\n2\n")
    out, drawn = tmp_path / "drawn.png", []
    for label in ("label=dog", "label=2", tmp_path / "given.csv"):
        arguments = ["sample", tmp_path / "run", "-n", "2", "--given", label, "--out", out]
        assert command_line(*arguments).code == 0
        drawn.append(out.read_bytes())
    assert len({*drawn}) == 1
    refused = command_line(*arguments[:5], "label=cow", *arguments[6:])
    assert "label=cow is not a label; they are horse, cat, dog" in refused.err


BAD = {
    "no classes": ({"context_columns": ["label"]}, "classes=None: between 2 and 256"),
    "no column": ({"classes": 3}, r"context_columns=\(\): the name of one column"),
    "wide": (
        {"context_columns": ["label"], "classes": 3, "context_features": 4},
        "context_features=4: 1 for a label",
    ),
    "one name": ({"context_columns": ["label"], "class_names": ["cat"]}, "between 2 and 256"),
    "a name twice": (
        {"context_columns": ["label"], "class_names": ["cat", "cat"]},
        "class_names=.*: 2 different names",
    ),
    "fewer names": (
        {"context_columns": ["label"], "classes": 3, "class_names": ["cat", "dog"]},
        "class_names=.*: 3 different names",
    ),
    "two": ({"context_columns": ["a", "b"], "classes": 3}, "the name of one column"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        ImageConfig(**settings)
