"""What the end-user models refuse: input, contexts and settings."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from support.small_models import make, rows

from impflow_zoo import (
    ImageConfig,
    ImpFlow,
    ResFlow,
    Solver,
    SolverError,
    TabularConfig,
    create_model,
)
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.published import PublishedImageConfig, PublishedTabularConfig
from impflow_zoo.transforms.base import NotFiniteError

PLAIN = {
    "integers": (lambda m: m.log_prob(torch.ones(2, 2, dtype=torch.long)), "floating point"),
    "columns": (lambda m: m.log_prob(torch.ones(2, 3)), r"\(2, 3\): this model takes \[B, 2\]"),
    "rank": (lambda m: m.log_prob(torch.ones(2)), r"this model takes \[B, 2\]; .* row\[None\]"),
    "NaN": (lambda m: m.log_prob(torch.tensor([[0.0, 0], [0, math.nan]])), "1 of 2 rows: 1"),
    "infinity": (lambda m: m.encode(torch.full((1, 2), math.inf)), "inputs with NaN or infinity"),
    "context not asked for": (lambda m: m.log_prob(rows(), rows()), "unconditional"),
    "noise of another size": (lambda m: m.decode(torch.ones(2, 3)), r"noise of shape \(2, 3\)"),
    "noise with NaN": (lambda m: m.decode(torch.full((1, 2), math.nan)), "noise with NaN"),
    "no tensor": (lambda m: m.log_prob([[0.0, 0.0]]), "inputs of type list: a torch tensor"),
    "noise that is no tensor": (lambda m: m.decode([[0.0, 0.0]]), "noise of type list"),
    "another device": (lambda m: m.log_prob(rows().to("meta")), "is on meta, the model on cpu"),
    "context that is no tensor": (lambda m: m.log_prob(rows(), [0.0]), "unconditional"),
    "fewer than no samples": (lambda m: m.sample(-1), "at least 0"),
    "samples beyond memory": (
        lambda m: m.sample(10**12),
        "1,000,000,000,000 samples .*draw them in parts",
    ),
    "samples beyond what torch counts": (lambda m: m.sample(10**30), "draw them in parts"),
    "samples with densities beyond memory": (
        lambda m: m.rsample_and_log_prob(10**12),
        "draw them in parts",
    ),
    "samples with gradients beyond memory": (lambda m: m.rsample(10**12), "draw them in parts"),
    "half a sample": (lambda m: m.sample(2.5), "whole number"),
    "negative temperature": (lambda m: m.sample(1, temperature=-1.0), "at least 0"),
    "temperature NaN": (lambda m: m.sample(1, temperature=math.nan), "at least 0"),
    "temperature infinite": (lambda m: m.sample(1, temperature=math.inf), "at least 0"),
    "transform, one column": (
        lambda m: m.transform(torch.ones(2, 1)),
        r"inputs of shape \(2, 1\): .*\[B, 2\]",
    ),
    "transform, rank": (lambda m: m.transform(torch.ones(2)), r"inputs of shape \(2,\)"),
    "transform, integers": (
        lambda m: m.transform(torch.ones(2, 2, dtype=torch.long)),
        "inputs of type torch.int64: floating point",
    ),
    "flow, columns": (lambda m: m.flow.log_prob(torch.ones(2, 1)), "this model takes"),
    "inverse, columns": (
        lambda m: m.transform.inverse(torch.ones(2, 3)),
        r"noise of shape \(2, 3\): .*\[B, 2\]",
    ),
    "inverse, rank": (lambda m: m.transform.inverse(torch.ones(2)), r"noise of shape \(2,\)"),
    "transform, NaN": (lambda m: m.transform(rows() * math.nan), "inputs with NaN or infinity"),
    "inverse, NaN": (lambda m: m.transform.inverse(rows() / 0), "noise with NaN or infinity"),
}


SETTINGS = {
    "unknown": ({"featrues": 2}, "unknown config key 'featrues'.*'features'"),
    "text": ({"features": "2"}, "config key 'features' is '2': int expected"),
    "fraction": ({"features": 2.0}, "config key 'features' is 2.0: int expected"),
    "one size": (
        {"features": 2, "hidden_features": 8},
        "'hidden_features' is 8: list .* as \\[8\\]",
    ),
    "mode": ({"features": 2, "logdet": "exact"}, "'logdet' is 'exact': settings by name"),
    "method": ({"features": 2, "solver": "newton"}, "'solver' is 'newton': settings by name"),
    "seed": ({"features": 2, "seed": 0.5}, "config key 'seed' is 0.5: int expected"),
}


@pytest.mark.parametrize(("call", "message"), PLAIN.values(), ids=PLAIN)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


@pytest.mark.parametrize(
    "name", ["spline-kin8nm", "resflow-torus", "mixture-protein-given-features"]
)
def test_the_map_of_any_model_refuses_rows_that_do_not_fit(name):
    model = create_model(name)
    (features,) = model.config.shape
    for call in (model.transform, model.transform.inverse):
        for wrong in (
            torch.rand(2, features + 1),
            torch.rand(features),
            torch.ones(2, features).long(),
        ):
            with pytest.raises(ValueError, match="this model takes|floating point is needed"):
                call(wrong)
        with pytest.raises(TypeError, match="of type ndarray: a torch tensor"):
            call(torch.zeros(2, 2).numpy())
        with pytest.raises(NotFiniteError, match="NaN or infinity in 1 of 2 .*: 1"):
            call(torch.stack((torch.ones(features), torch.full((features,), math.nan))))


def test_the_map_names_a_column_out_of_its_bounds():
    config = TabularConfig(2, blocks=1, columns=("a", "b"), bounds={"b": (0.0, None)})
    with pytest.raises(ValueError, match="column 1 .* between 0 and inf"):
        ImpFlow(config).transform(torch.tensor([[1.0, -3.0]]))


@pytest.mark.parametrize(("settings", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_another_type_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ImpFlow({"kind": "tabular", **settings})
    if "unknown" not in message:
        with pytest.raises(ConfigError, match=message):
            TabularConfig(**settings)


def test_settings_take_the_type_of_their_field():
    config = TabularConfig(np.int64(2), hidden_features=[8, 8], lipschitz=np.float64(0.5))
    assert config == TabularConfig(2, hidden_features=(8, 8), lipschitz=0.5)
    assert type(config.features) is int


def test_an_unsolved_root_is_no_answer():
    model = make(solver=Solver("fixed_point", max_steps=2))
    with pytest.raises(SolverError, match="6 of 6 rows did not converge"):
        model.log_prob(rows())


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (TabularConfig(2, hidden_features=(7,), net="spectral", activation="maxmin"), 7),
        (PublishedTabularConfig(3, activation="maxmin", preactivation=True), 3),
        (ImageConfig(activation="maxmin", width=7), 7),
        (ImageConfig(activation="maxmin", blocks=(2, 1)), 3),
        (
            PublishedImageConfig(3, (5, 5), activation="maxmin", blocks=(1,), width=8, fc_blocks=1),
            75,
        ),
    ],
)
def test_pairs_need_even_sizes(config, size):
    with pytest.raises(ConfigError, match=f"even number of features, not {size}"):
        ResFlow(config)


@pytest.mark.parametrize("kind", [partial(PublishedTabularConfig, 2), PublishedImageConfig])
def test_unknown_norms_are_mistakes_of_a_config(kind):
    with pytest.raises(ConfigError, match="unknown norm '2x'"):
        kind(norm="2x")


def test_activations_of_spectral_nets_are_told_from_unknown_ones():
    with pytest.raises(ConfigError, match=r"activation='sin' needs net='spectral'"):
        TabularConfig(2, net="sandwich", activation="sin")
    with pytest.raises(ConfigError, match="unknown activation 'sine'"):
        TabularConfig(2, activation="sine")
    assert TabularConfig(2).activation == "sin"
    with pytest.raises(ConfigError, match="frequency=2.0: 'maxmin' is not elementwise"):
        ImpFlow(TabularConfig(2, activation="maxmin", frequency=2.0))


def test_a_net_without_an_activation_at_the_start_takes_odd_channels():
    config = ImageConfig(3, (8, 8), blocks=(1,), width=8, activation="maxmin")
    assert ResFlow(config).eval().log_prob(torch.rand(2, 3, 8, 8)).shape == (2,)
