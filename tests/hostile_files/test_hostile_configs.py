"""A `config.json` that we did not write makes a model, or ends in the library's own error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nflows.transforms import MaskedAffineAutoregressiveTransform, Transform
from support.hostile import FEW, MANY, VALUES, answer_or_none, changed, loads_or_says_why

from impflow_zoo import (
    ImpFlow,
    ResFlow,
    Solver,
    SplineFlow,
    TabularConfig,
    create_model,
    evaluate,
    register_block,
)
from impflow_zoo.data import DataError, open_table
from impflow_zoo.models import budget, mixed
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import CONFIG, RESULTS, TRAINING
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.yardsticks import LinearGaussian, LinearGaussianConfig
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.zoo.record import Record


def check_config(files: dict[str, bytes], folder: Path, data: st.DataObject) -> None:
    config = data.draw(changed(files[CONFIG]))
    loads_or_says_why(folder, {**files, CONFIG: config})


@given(data=st.data())
@FEW
def test_configs(files, image_files, tmp_path, data):
    check_config(data.draw(st.sampled_from([files, image_files])), tmp_path, data)


@pytest.mark.slow
@given(data=st.data())
@MANY
def test_many_configs(files, image_files, tmp_path, data):
    check_config(data.draw(st.sampled_from([files, image_files])), tmp_path, data)


@given(text=st.one_of(st.binary(max_size=50), VALUES.map(lambda v: json.dumps(v).encode())))
@FEW
def test_what_is_no_config_at_all(files, tmp_path, text):
    assert not loads_or_says_why(tmp_path, {**files, CONFIG: text})


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"features": 2', '"features": 1000000000'),
        ('"features": 2', '"features": 3000000'),
        ('"blocks": 1', '"blocks": 1000000000000'),
        ('"hidden_features": [8, 8]', f'"hidden_features": [{", ".join(["8"] * 20000)}]'),
        ('"hidden_features": [8, 8]', '"hidden_features": [8, 4000000000]'),
        ('"hidden_features": [8, 8]', f'"hidden_features": {_nested(900)}'),
        ('"hidden_features": [8, 8]', f'"hidden_features": {_nested(100000)}'),
        ('"context_features": 1', '"context_features": 1000000000000'),
        ('"lipschitz": 0.8', '"lipschitz": NaN'),
        ('"lipschitz": 0.8', '"lipschitz": 1e999'),
        ('"lipschitz": 0.8', f'"lipschitz": {"9" * 400}'),
        ('"seed": 0', f'"seed": {"9" * 400}'),
        ('"seed": 0', f'"seed": {"9" * 9000}'),
        ('"activation": "sin"', '"activation": "__import__"'),
        ('"kind": "tabular"', '"kind": "image"'),
        ('"model": "ImpFlow"', '"model": "torch.nn.Linear"'),
    ],
)
def test_absurd_configs_are_refused(files, tmp_path, old, new):
    text = files[CONFIG].decode()
    assert old in text
    config = text.replace(old, new, 1).encode()
    assert not loads_or_says_why(tmp_path, {**files, CONFIG: config})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"image_size": [2, 2]', '"image_size": [1048576, 1048576]'),
        ('"blocks": [1, 1]', '"blocks": [1, 1000000000]'),
        ('"width": 2', '"width": 2000000000'),
        ('"kernels": [3, 1, 3]', '"kernels": [3, 99999999, 3]'),
        ('"kernels": [3, 1, 3]', '"kernels": [3, 1, 99999999]'),
        ('"squeeze_first": false', '"fc_blocks": 1000000000'),
    ],
)
def test_absurd_image_configs_are_refused(image_files, tmp_path, old, new):
    text = image_files[CONFIG].decode()
    assert old in text
    config = text.replace(old, new, 1).encode()
    assert not loads_or_says_why(tmp_path, {**image_files, CONFIG: config})


WIDE = {"hidden_features": [60_000]}
NAMES = [f"c{i}" for i in range(20_000)]
ABSURD = {
    "wide spline block": ("ImpFlow", "tabular", {"blocks": ["spline-autoregressive"], **WIDE}),
    "wide spline block behind another": (
        "ImpFlow",
        "tabular",
        {"blocks": ["implicit", "spline-coupling"], **WIDE},
    ),
    "many blocks": ("ResFlow", "tabular", {"features": 1, "blocks": 200_000}),
    "many named blocks": ("ResFlow", "tabular", {"features": 1, "blocks": ["residual"] * 150_000}),
    "as many blocks as there may be": ("ResFlow", "tabular", {"features": 1, "blocks": 1000}),
    "many layers": ("ResFlow", "tabular", {"blocks": 1000, "hidden_features": [1] * 100}),
    "wide embedding": (
        "ImpFlow",
        "tabular",
        {"context_features": 1, "embedding_net": [60_000, 60_000, 1]},
    ),
    "wide context": ("ImpFlow", "tabular", {"context_features": 50_000}),
    "many columns that are whitened": ("ImpFlow", "tabular", {"features": 50_000, "whiten": True}),
    "many columns with bounds and periods": (
        "ImpFlow",
        "tabular",
        {
            "features": 20_000,
            "columns": NAMES,
            "bounds": {name: [0, 1] for name in NAMES[::2]},
            "periodic": dict.fromkeys(NAMES[1::2], 1),
        },
    ),
    "probes": ("ImpFlow", "tabular", {"logdet": {"n_probes": 10**9}}),
    "terms": ("ImpFlow", "tabular", {"logdet": {"n_terms": 10**9}}),
    "steps": ("ImpFlow", "tabular", {"solver": {"max_steps": 10**12}}),
    "wide splines": ("SplineFlow", "spline", {"hidden_features": 60_000}),
    "many spline layers": ("SplineFlow", "spline", {"blocks": 200_000}),
    "many spline layers of one width": ("SplineFlow", "spline", {"blocks": 1000}),
    "splines of many columns": ("SplineFlow", "spline", {"features": 50_000, "blocks": 1000}),
    "bins": ("SplineFlow", "spline", {"bins": 10**9}),
    "components": ("MixtureDensityNetwork", "mixture", {"components": 10**9}),
    "many components": ("MixtureDensityNetwork", "mixture", {"components": 10**4}),
    "wide mixture": ("MixtureDensityNetwork", "mixture", {"hidden_features": 60_000}),
    "many columns of a Gaussian": ("LinearGaussian", "linear-gaussian", {"features": 50_000}),
    "wide images": ("ResFlow", "image", {"width": 60_000}),
    "wide dense nets": ("ResFlow", "image", {"width": 60_000, "net": "dense"}),
    "large kernels": ("ResFlow", "image", {"kernels": [3, 99_999, 3]}),
    "many layers of images": ("ResFlow", "image", {"kernels": [1] * 50_000}),
    "large images": ("ResFlow", "image", {"image_size": [2**22, 2**22]}),
    "large images of small kernels": (
        "ResFlow",
        "image",
        {"image_size": [2**22, 2**22], "kernels": [1]},
    ),
    "large images that fit the limits": ("ResFlow", "image", {"image_size": [4096, 4096]}),
    "many scales": ("ResFlow", "image", {"image_size": [4096, 4096], "blocks": [1] * 13}),
    "scales without end": ("ResFlow", "image", {"blocks": [1] * 100_000}),
    "many blocks of images": ("ResFlow", "image", {"blocks": [10**6]}),
    "whitened scales": (
        "ResFlow",
        "image",
        {"image_size": [4096, 4096], "blocks": [1] * 12, "whiten": True},
    ),
    "classes": ("ResFlow", "image", {"context_columns": ["label"], "classes": 10**9}),
    "wide published nets": ("ResFlow", "published-tabular", WIDE),
    "wide layers behind images": (
        "ResFlow",
        "published-image",
        {"fc_blocks": 1, "fc_hidden": [10**6]},
    ),
    "many layers behind images": ("ResFlow", "published-image", {"fc_blocks": 10**6}),
}


@pytest.mark.parametrize("name", ABSURD)
def test_no_config_takes_more_than_its_weights_hold(name, files, tmp_path):
    model, kind, settings = ABSURD[name]
    known = {} if "image" in kind else {"features": 2}
    config = {**json.loads(files[CONFIG]), "model": model}
    config["config"] = {"kind": kind, **known, **settings}
    content = json.dumps(config).encode()
    assert not loads_or_says_why(tmp_path, {**files, CONFIG: content})


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (ImpFlow, {"kind": "tabular", "features": 40_000, "whiten": True}),
        (ResFlow, {"kind": "image", "width": 60_000}),
        (SplineFlow, {"kind": "spline", "features": 2, "hidden_features": 60_000}),
    ],
    ids=["tables", "images", "splines"],
)
def test_no_config_makes_a_model_of_gigabytes_in_python_either(model, config, monkeypatch):
    message = "more than 1,000,000,000 numbers: .*impflow_zoo.models.budget.NUMBERS"
    with pytest.raises(ConfigError, match=message):
        model(config)
    small = {"kind": "tabular", "features": 2, "hidden_features": [8]}
    ImpFlow(small)
    monkeypatch.setattr(budget, "NUMBERS", 100)
    with pytest.raises(ConfigError, match="more than 100 numbers"):
        ImpFlow(small)


@pytest.mark.parametrize("name", ["rtol", "atol", "backward_rtol"])
def test_tolerances_that_ask_for_nothing_are_refused(name):
    for kind, known in ((TabularConfig, {"features": 2}), (ImageConfig, {})):
        kind(**known, solver=Solver(**{name: 1.0}))
        with pytest.raises(ConfigError, match=f"solver.{name}=1e.300: at most 1 expected"):
            kind(**known, solver=Solver(**{name: 1e300}))


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + "/y", "./" + "x" * 5000, "a\0b"])
def test_names_that_no_file_can_have_are_unknown_names(name):
    model = ImpFlow(TabularConfig(features=2, hidden_features=(8,))).eval()
    for call in (
        create_model,
        ImpFlow.from_pretrained,
        lambda name: read_recipe(Path(name)),
        lambda name: evaluate(model, name),
        lambda name: open_table(f"{name}.csv"),
    ):
        with pytest.raises((ModelError, DataError)) as refused:
            call(name)
        assert len(str(refused.value)) < 2000


FILES = {
    "deep": "[" * 100_000,
    "deep and closed": _nested(100_000),
    "digits": '[{"n": ' + "9" * 5000 + "}]",
    "key given twice": '{"steps": 1, "steps": 2}',
    "larger than any": " " * 2_000_001,
    "binary": "\x00",
    "empty": "",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_absurd_records_are_refused(content, tmp_path):
    for name in (RESULTS, TRAINING, CONFIG):
        (tmp_path / name).write_text(content)
    folder = ModelFolder(tmp_path)
    for read in (folder.config, lambda: Record(folder).entries, lambda: Record(folder).facts):
        assert answer_or_none(read) is None


def test_a_key_that_is_given_twice_is_named(files, tmp_path):
    config = files[CONFIG].replace(b'"features": 2', b'"features": 2, "features": 3')
    (tmp_path / CONFIG).write_bytes(config)
    with pytest.raises(ConfigError, match="config.json .*: 'features' given twice"):
        ModelFolder(tmp_path).config()


def test_a_config_that_nobody_could_read_is_not_saved(tmp_path):
    names = tuple("x" * 5000 + str(i) for i in range(400))
    with pytest.raises(ConfigError, match="config.json='.* bytes': 2,000,000 at most"):
        LinearGaussian(LinearGaussianConfig(400, columns=names)).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_blocks_of_other_packages_take_no_more_either(files, tmp_path, monkeypatch):
    monkeypatch.setattr(mixed, "BLOCKS", dict(mixed.BLOCKS))

    @register_block("theirs")
    def _theirs(config: TabularConfig, number: int) -> Transform:
        return MaskedAffineAutoregressiveTransform(config.features, config.hidden_features[0])

    def stated(width: int) -> bytes:
        config = json.loads(files[CONFIG])
        config["config"] |= {"blocks": ["theirs"], "hidden_features": [width]}
        return json.dumps(config).encode()

    for width in (8, 60_000):
        assert not loads_or_says_why(tmp_path, {**files, CONFIG: stated(width)})
        what = "missing" if width == 8 else "makes far more"
        with pytest.raises(ModelError, match=f"{what}.*weights of another architecture"):
            create_model(tmp_path)
