"""Conditional densities of tables: contexts have names and the data's own units."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.small_models import write_recipe
from torch import Tensor

from impflow_zoo import (
    ImageConfig,
    ImpFlow,
    LinearGaussian,
    LinearGaussianConfig,
    MixtureConfig,
    MixtureDensityNetwork,
    ResFlow,
    SplineConfig,
    SplineFlow,
    TabularConfig,
    create_model,
    evaluate,
    training,
)
from impflow_zoo.data import DataError
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import GOLDEN
from impflow_zoo.models.folder import read_safetensors

MEANS, STDS = torch.tensor([[20.0, 1010.0], [7.0, 6.0]], dtype=torch.float64)
NAMES = {"columns": ("a",), "context_columns": ("t", "p")}
SMALL = {"blocks": 2, "hidden_features": (8, 8), "lipschitz": 0.8}
MODELS = {
    "ImpFlow": lambda **named: ImpFlow(TabularConfig(**SMALL, **named)),
    "embedded": lambda **named: ImpFlow(TabularConfig(**SMALL, embedding_net=(6, 5), **named)),
    "ResFlow": lambda **named: ResFlow(TabularConfig(**SMALL, **named)),
    "SplineFlow": lambda **named: SplineFlow(
        SplineConfig(blocks=2, hidden_features=8, layers="autoregressive", **named)
    ),
}
YARDSTICKS = {
    "LinearGaussian": lambda **named: LinearGaussian(LinearGaussianConfig(**named)),
    "MixtureDensityNetwork": lambda **named: MixtureDensityNetwork(MixtureConfig(**named)),
}
models = pytest.mark.parametrize("kind", MODELS)


def contexts(n: int) -> Tensor:
    return MEANS + STDS * torch.randn(n, 2, dtype=torch.float64)


def made(kind: str, features: int = 1, **named: object) -> ImpFlow | ResFlow | SplineFlow:
    """A model in float64 that depends on its contexts."""
    torch.manual_seed(0)
    names = NAMES if features == 1 else {"context_features": 2}
    model = MODELS[kind](**{"features": features, **names, **named}).double().eval()
    model.fit_preprocessing(3 + 0.5 * torch.randn(200, features).double(), contexts(200))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn_like(p)
    return model


@models
@pytest.mark.parametrize("features", [1, 2])
def test_the_density_is_that_of_the_map_at_its_context(kind, features):
    model, c = made(kind, features), contexts(6)
    x = 3 + 0.5 * torch.randn(6, features, dtype=torch.float64)
    z, logabsdet = model.transform(x, c)
    rows = zip(x, c, strict=True)
    dense = [
        torch.autograd.functional.jacobian(lambda r, g=g: model.encode(r[None], g[None])[0], row)
        for row, g in rows
    ]
    expected = torch.linalg.slogdet(torch.stack(dense))[1]
    torch.testing.assert_close(logabsdet, expected, rtol=1e-6, atol=1e-8)
    noise = -0.5 * (z**2).sum(1) - 0.5 * features * math.log(2 * math.pi)
    torch.testing.assert_close(model.log_prob(x, c), noise + expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model.flow.log_prob(x, c), model.log_prob(x, c))
    torch.testing.assert_close(model.decode(z, c), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.transform.inverse(z, c)[0], x, rtol=1e-6, atol=1e-6)


@models
@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.sample(2),
        lambda model: model.rsample(2),
        lambda model: model.rsample_and_log_prob(2),
        lambda model: model.log_prob(torch.zeros(2, 1)),
        lambda model: model.transform(torch.zeros(2, 1).double()),
        lambda model: model.transform.inverse(torch.zeros(2, 1).double()),
        lambda model: model.flow.sample(2),
    ],
    ids=["sample", "rsample", "rsample_and_log_prob", "log_prob", "transform", "inverse", "flow"],
)
def test_nothing_is_answered_without_a_context(kind, call):
    """A spline is computed for zeros where there is no context: a density that nobody asked for."""
    with pytest.raises(ValueError, match=r"needs a context of shape \[B, 2\]"):
        call(made(kind))


@pytest.mark.parametrize("kind", [*MODELS, *YARDSTICKS])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_one_context_is_not_spread_over_rows(kind, number):
    """Layers of nflows and matrix products broadcast it, or end in errors of torch."""
    transform = {**MODELS, **YARDSTICKS}[kind](features=1, **NAMES).double().transform
    rows, given = torch.zeros(2, 1).double(), contexts(number)
    for call in (transform, transform.inverse):
        with pytest.raises(ValueError, match=rf"context of shape \({number}, 2\).*for 2 rows"):
            call(rows, given)


@pytest.mark.parametrize("kind", ["ImpFlow", "ResFlow", "SplineFlow", *YARDSTICKS])
def test_the_map_refuses_a_context_that_it_does_not_take_and_rows_of_another_type(kind):
    transform = {**MODELS, **YARDSTICKS}[kind](features=1).transform
    for call in (transform, transform.inverse):
        with pytest.raises(ValueError, match="a context was given"):
            call(torch.zeros(2, 1), torch.zeros(2, 2))
        with pytest.raises(ValueError, match="of type torch.float64, parameters of type torch.fl"):
            call(torch.zeros(2, 1).double())
        assert call(torch.zeros(2, 1).half())[0].dtype == torch.float32


@models
@torch.no_grad()
def test_it_integrates_to_one_at_every_context(kind):
    model = made(kind)
    x = torch.linspace(-20, 26, 40_001, dtype=torch.float64)[:, None]
    for c in contexts(3):
        density = model.log_prob(x, c.expand(len(x), 2)).exp()
        assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-5)


@models
def test_contexts_are_standardised_inside(kind):
    model, c = made(kind), contexts(5)
    x = 3 + torch.randn(5, 1, dtype=torch.float64)
    mean, std = model.transform.context_mean.clone(), model.transform.context_std.clone()
    torch.testing.assert_close(mean, MEANS, rtol=0.2, atol=0)
    torch.testing.assert_close(std, STDS, rtol=0.3, atol=0)
    before = model.log_prob(x, c)
    model.transform.set(torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(model.log_prob(x, (c - mean) / std), before)
    assert not torch.allclose(model.log_prob(x, ((c - mean) / std).flip(0)), before)


@models
def test_samples_follow_the_density_at_their_context(kind):
    model, c = made(kind), contexts(2)
    samples = model.sample(4000, c, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (2, 4000, 1)
    x = torch.linspace(-20, 26, 20_001, dtype=torch.float64)[:, None]
    for own, drawn in zip(c, samples, strict=True):
        density = model.log_prob(x, own.expand(len(x), 2)).exp().detach()
        cumulative = torch.cumulative_trapezoid(density, x[:, 0])
        at = cumulative[torch.searchsorted(x[1:, 0].contiguous(), drawn[:, 0].sort().values)]
        uniform = (torch.arange(4000) + 0.5) / 4000
        assert float((at - uniform).abs().max()) < 0.04  # Kolmogorov: 0.03 once in a thousand


@models
def test_saved_models_answer_the_same(kind, tmp_path):
    model, c = made(kind).float(), contexts(3).float()
    x = 3 + torch.randn(3, 1)
    model.save_pretrained(tmp_path)
    loaded = create_model(tmp_path, verify=True)
    assert loaded.config.context_columns == ("t", "p")
    torch.testing.assert_close(loaded.log_prob(x, c), model.log_prob(x, c))
    golden = read_safetensors(tmp_path / GOLDEN)["context"]  # in the data's own units
    assert bool(((golden - MEANS) / STDS).abs().max() < 5)


def test_names_fill_in_the_number_of_contexts():
    assert TabularConfig(1, **NAMES).context_features == 2
    assert TabularConfig(1).context_features is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**NAMES, "context_features": 3}, "context_columns=.*one entry for 3 columns expected"),
        ({"context_columns": ("t",)}, "columns must be named too"),
        ({"columns": ("a",), "context_columns": ("a",)}, "columns=.*each once expected"),
        ({**NAMES, "rounding": (1.0, 1.0)}, "rounding=.*one entry for 1 columns"),
        ({"embedding_net": (4,)}, "embedding_net needs context_columns, or context_features"),
        ({**NAMES, "embedding_net": (4, 0)}, "embedding_net=.*at least 1"),
        ({"columns": ("a",), "context_columns": "t"}, "config key 'context_columns' is 't'"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TabularConfig(1, **settings)


@models
@pytest.mark.parametrize("wrong", [torch.zeros(4, 1), torch.zeros(4, 3), torch.zeros(4)])
def test_transforms_refuse_contexts_of_another_size(kind, wrong):
    with pytest.raises(ValueError, match=r"context of shape .*\[4, 2\] .*torch.float64"):
        made(kind).transform(X, wrong.double())


X, C = torch.zeros(4, 1, dtype=torch.float64), MEANS.expand(4, 2)
MISTAKES = {
    "missing": (lambda m: m.log_prob(X), r"needs a context .*\[B, 2\]: t, p"),
    "missing-sample": (lambda m: m.sample(3), r"needs a context .*\[B, 2\]: t, p"),
    "too-many": (lambda m: m.log_prob(X, C[:, [0, 1, 1]]), r"\(4, 3\).*takes \[4, 2\]"),
    "too-few": (lambda m: m.sample(3, C[:, :1]), r"\(4, 1\).*takes \[B, 2\]"),
    "count": (lambda m: m.log_prob(X, C[:2]), r"\(2, 2\).*for 4 rows .*takes \[4, 2\]"),
    "nan": (lambda m: m.log_prob(X, C * math.nan), "context with NaN or infinity .*4 of 4"),
    "nan-sample": (lambda m: m.sample(1, C / 0), "context with NaN or infinity"),
    "text": (lambda m: m.log_prob(X, "t=1"), "context of type str: .*tensor"),
    "list-sample": (lambda m: m.sample(1, [0.0]), "context of type list: .*tensor"),
    "whole": (lambda m: m.sample(1, C.long()), "context of type torch.int64: floating point"),
    "fit": (lambda m: m.fit_preprocessing(X, C[:2]), r"for 4 rows .*takes \[4, 2\]"),
    "constant": (
        lambda m: m.fit_preprocessing(torch.randn_like(X), C),
        r"columns \['t', 'p'\] are constant",
    ),
}


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_about_contexts_get_one_clear_line(call):
    act, message = MISTAKES[call]
    with pytest.raises(ValueError, match=message) as caught:
        act(made("ImpFlow"))
    assert "\n" not in str(caught.value)


def test_contexts_need_no_rounding_noise_and_may_have_some():
    raw, noise = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    for steps, expected in (((0.1,), [0.05, 0, 0]), ((0.1, 1.0, 0.0), [0.05, 0.5, 0])):
        moved = made("ImpFlow", rounding=steps).dequantise(raw, noise)
        torch.testing.assert_close(moved[0], torch.tensor(expected, dtype=torch.float64))


def table(path: Path, n: int = 60) -> Path:
    """A file whose columns stand in an order of their own, with one of text."""
    c = contexts(n)
    a = c[:, 0] / 10 + torch.randn(n).double()
    lines = [f"{p},{x},row,{t}" for (t, p), x in zip(c.tolist(), a.tolist(), strict=True)]
    path.write_text("\n".join(["p,a,note,t", *lines]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["ImpFlow", "SplineFlow"])
def test_a_recipe_trains_and_scores_a_file_of_ones_own(kind, tmp_path):
    file = table(tmp_path / "train.csv")
    plane = {"kind": "tabular", "blocks": 1, "hidden_features": [8], "features": 1}
    spline = {"kind": "spline", "blocks": 1, "layers": "autoregressive", "features": 1}
    config = {**(spline if kind == "SplineFlow" else plane), **NAMES, "rounding": [0.01]}
    config |= {name: list(value) for name, value in NAMES.items()}
    data = {"dataset": str(file), "validation_rows": 20}
    recipe = write_recipe(tmp_path, kind, config=config, data=data)
    training.train(recipe, out=tmp_path / "run", progress=False)
    model = create_model(tmp_path / "run", verify=True)
    assert model.config.columns == ("a",)
    torch.testing.assert_close(model.transform.context_mean, MEANS.float(), rtol=0.2, atol=0)
    result = evaluate(model, str(file), "train", batch_size=7)
    again = evaluate(model, str(file), "train")
    assert result.n == 60
    assert result.value == pytest.approx(again.value, abs=1e-6)
    assert result.stderr > 0
    assert result.round_trip < 1e-4


def test_a_file_without_a_context_column_is_refused(tmp_path):
    (tmp_path / "test.csv").write_text("a,t\n1.5,2.5\n")
    with pytest.raises(DataError, match="no column p, only a, t"):
        evaluate(made("ImpFlow"), str(tmp_path / "test.csv"))


def test_contexts_without_names_are_not_read_from_data():
    with pytest.raises(ModelError, match="contexts have no names.*config.context_columns"):
        evaluate(made("ImpFlow", 2), "toy:moons")


def test_a_toy_gives_one_column_given_the_other():
    config = TabularConfig(1, columns=("y",), context_columns=("x",), **SMALL)
    model = ImpFlow(config).eval()
    result = evaluate(model, "toy:moons", "test", limit=20)
    assert result.n == 20


def test_a_context_needs_a_hidden_layer_that_sees_it():
    with pytest.raises(ConfigError, match="hidden_features=.*: a hidden layer, which sees the con"):
        TabularConfig(2, context_features=1, hidden_features=())
    with pytest.raises(ConfigError, match=r"kernels=\(3,\): two or more, as the context needs"):
        ImageConfig(kernels=(3,), context_columns=("label",), classes=2)
