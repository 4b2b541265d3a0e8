"""Densities as estimators of scikit-learn: its own checks, and what they do not look at."""

from __future__ import annotations

import os
import pickle
import re
import signal
from dataclasses import dataclass
from typing import ClassVar

import numpy
import pandas
import pytest

pytest.importorskip("sklearn")
from nflows.transforms import MaskedAffineAutoregressiveTransform
from scipy.stats import norm
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from support.checkout import CHECKOUT

from impflow_zoo import register_model
from impflow_zoo.models import classes
from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.table_transform import table_transform
from impflow_zoo.sklearn import FlowDensity, FlowRegressor
from impflow_zoo.training.trainer import Trainer

RANDOM = numpy.random.default_rng(0)
X = RANDOM.normal(size=(200, 2)) @ [[1.0, 0.8], [0.0, 0.6]] + [3.0, -1.0]
QUICK = {"minutes": 0.001, "model": "LinearGaussian", "device": "cpu"}
SMALL = {
    "minutes": 0.05,
    "model": "ImpFlow",
    "config": {"blocks": 1, "hidden_features": [16], "net": "sandwich"},
    "device": "cpu",
}
WEIGHTS = "which rows are held out for validation depends on their number, not on their weights"
TWO_ARGUMENTS = "the density of a target needs the target: score_samples(X, y)"
EXCEPTIONS = {
    FlowDensity: dict.fromkeys(("check_sample_weight_equivalence_on_dense_data",), WEIGHTS),
    FlowRegressor: {
        "check_methods_sample_order_invariance": TWO_ARGUMENTS,
        "check_methods_subset_invariance": TWO_ARGUMENTS,
        "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), [(FlowDensity, QUICK), (FlowRegressor, SMALL)])
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn(kind, settings):
    check_estimator(kind(**settings), expected_failed_checks=EXCEPTIONS[kind], on_skip=None)


def test_the_how_to_lists_the_exceptions():
    text = (CHECKOUT / "examples/how_to/scikit_learn_estimators.py").read_text(encoding="utf-8")
    known = {name for names in EXCEPTIONS.values() for name in names}
    assert {*re.findall(r"``(check_\w+_\w+)``", text)} == known


CHECKS = {
    "check_no_attributes_set_in_init",
    "check_fit2d_1sample",
    "check_n_features_in",
    "check_sample_weights_list",
    "check_sample_weights_shape",
    "check_sample_weights_not_overwritten",
}


@pytest.mark.parametrize("kind", [FlowDensity, FlowRegressor])
def test_quick_checks_of_scikit_learn(kind):
    known = {}
    for estimator, check in estimator_checks_generator(kind(**QUICK)):
        known[getattr(check, "func", check).__name__] = (estimator, check)
    for name in CHECKS:
        estimator, check = known[name]
        check(estimator)


def test_a_seed_may_be_a_number_of_numpy():
    """As in a grid search over `numpy.arange(3)`."""
    one, other = (FlowDensity(**QUICK, seed=seed).fit(X) for seed in (2, numpy.int64(2)))
    assert numpy.array_equal(one.score_samples(X), other.score_samples(X))


def test_a_density_scores_and_samples_as_kernel_density_does():
    density = FlowDensity(**QUICK).fit(X)
    values = density.score_samples(X)
    assert (values.shape, values.dtype) == ((200,), numpy.float64)
    assert density.score(X) == pytest.approx(values.sum())
    assert numpy.array_equal(density.sample(5, random_state=1), density.sample(5, random_state=1))
    assert density.score_samples(X + 1e30).max() == -numpy.inf
    centred = density.score_samples([[3.0, -1.0]])
    assert centred > values.mean()


def test_names_of_columns_are_kept():
    frame = pandas.DataFrame(X, columns=["a", "b"])
    density = FlowDensity(**QUICK).fit(frame)
    assert density.model_.config.columns == ("a", "b")
    assert list(density.sample(2, random_state=0).columns) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(frame.rename(columns={"a": "c"}))


@pytest.mark.parametrize("names", [range(2), [("a", "x"), ("a", "y")]], ids=["numbers", "levels"])
def test_samples_have_the_names_of_any_frame(names):
    frame = pandas.DataFrame(X)
    frame.columns = pandas.Index(names)
    drawn = FlowDensity(**QUICK).fit(frame).sample(2, random_state=0)
    assert list(drawn.columns) == list(names)


@pytest.mark.parametrize("model", ["SplineFlow", "LinearGaussian"])
def test_models_of_a_single_column(model):
    settings = {**QUICK, "model": model}
    assert FlowDensity(**settings).fit(X[:, :1]).score_samples(X[:, :1]).shape == (200,)
    assert FlowRegressor(**settings).fit(X[:, :1], X[:, 1]).predict(X[:, :1]).shape == (200,)


def test_a_linear_gaussian_is_linear_regression():
    draws = numpy.random.default_rng(0)
    features = draws.normal(size=(500, 3))
    y = features @ [3.0, -1.0, 0.5] + 0.3 * draws.normal(size=500)
    found = FlowRegressor(**{**QUICK, "minutes": 0.01}).fit(features, y)
    assert found.score(features, y) == pytest.approx(1 - 0.3**2 / y.var(), abs=0.003)


def test_layers_that_need_two_columns_are_named():
    with pytest.raises(ConfigError, match="features=1: at least 2 with .*coupling"):
        FlowDensity(**{**QUICK, "model": "spline-coupling"}).fit(X[:, :1])


def test_constant_features_say_nothing():
    """A part of the rows, as in cross-validation, may lack a rare category."""
    rare = numpy.insert(X, 1, 0.0, axis=1)
    target = X.sum(axis=1)
    plain = FlowRegressor(**QUICK).fit(X, target)
    regressor = FlowRegressor(**QUICK).fit(rare, target)
    rare[0, 1] = 1.0
    assert numpy.array_equal(regressor.predict(rare), plain.predict(X))
    assert numpy.array_equal(regressor.score_samples(rare, target), plain.score_samples(X, target))
    with pytest.raises(ValueError, match="column 'x0' is constant"):
        FlowRegressor(**QUICK).fit(numpy.ones_like(X), target)


def test_a_feature_or_target_called_group_is_one_as_others():
    """Elsewhere a column of that name tells which rows belong together."""
    frame = pandas.DataFrame(X, columns=["a", "group"])
    plain = FlowDensity(**QUICK).fit(X).score_samples(X)
    density = FlowDensity(**QUICK).fit(frame)
    assert density.score_samples(frame) == pytest.approx(plain)
    assert list(density.sample(2, random_state=0).columns) == ["a", "group"]
    features, target = frame[["group"]], pandas.Series(X[:, 0], name="group")
    assert FlowRegressor(**QUICK).fit(features, target).predict(features).shape == (200,)


def test_estimators_are_parts_of_others():
    density = FlowDensity(**QUICK)
    fitted = make_pipeline(StandardScaler(), density).fit(X)
    copy = pickle.loads(pickle.dumps(fitted))
    assert numpy.array_equal(copy.score_samples(X), fitted.score_samples(X))
    assert clone(density).get_params() == density.get_params()
    assert cross_val_score(density, X, cv=2).shape == (2,)
    grid = GridSearchCV(density, {"seed": [0, 1]}, cv=2).fit(X)
    assert grid.best_params_["seed"] in (0, 1)


def test_without_a_model_it_searches(monkeypatch):
    from support.fits import ENTRANTS

    import impflow_zoo.sklearn as module
    from impflow_zoo.fitting import search
    from impflow_zoo.fitting.budget import Plan

    monkeypatch.setattr(module, "candidates", lambda findings: list(ENTRANTS))
    monkeypatch.setattr(module, "plan", lambda *_: Plan((2,), 0.1))
    density = FlowDensity(0.01, device="cpu").fit(X)
    assert list(density.tried_["round"]) == ["1", "1", "last"]
    train_on = search.train_on

    def stopped(*arguments, max_minutes, **options):
        return train_on(*arguments, max_minutes=max_minutes and 0.0, **options)

    monkeypatch.setattr(search, "train_on", stopped)
    with pytest.warns(ConvergenceWarning, match="the clock stopped the training before its end"):
        density = FlowDensity(0.01, device="cpu").fit(X)
    assert list(density.tried_["ended"]) == ["steps", "steps", "time"]


PART = 1 / (1 + numpy.exp(-X[:, 0]))
TURN = 90 * X[:, 1] % 360
KNOWN = {"bounds": {"x0": (0, 1)}, "periodic": {"x1": 360}}
TINY = {"minutes": 0.001, "model": "ImpFlow", "device": "cpu"}
TINY["config"] = {"blocks": 1, "hidden_features": [4]}


@pytest.mark.parametrize("settings", [TINY, {"minutes": 0.001, "device": "cpu"}])
def test_bounds_and_periods_are_stated_as_for_fit(settings):
    rows = numpy.column_stack([PART, TURN])
    density = pickle.loads(pickle.dumps(clone(FlowDensity(**settings, **KNOWN)).fit(rows)))
    part, turn = density.sample(100, random_state=0).T
    assert ((part > 0) & (part < 1) & (turn >= 0) & (turn < 360)).all()
    values, turned = (
        density.score_samples(rows),
        density.score_samples(rows + numpy.array([0, 360])),
    )
    assert values == pytest.approx(turned)
    assert density.get_params()["bounds"] == {"x0": (0, 1)}
    with pytest.raises(ValueError, match="x0 is not within .* 0 and 1"):
        density.score_samples(rows + 1)


def test_a_search_takes_what_is_stated(monkeypatch):
    import impflow_zoo.sklearn as module

    seen = []
    candidates = module.candidates
    monkeypatch.setattr(module, "candidates", lambda f: seen.append(f) or candidates(f))
    FlowDensity(0.001, device="cpu", **KNOWN).fit(numpy.column_stack([PART, TURN]))
    assert seen[0].stated == {"bounds": {"x0": [0, 1]}, "periodic": {"x1": 360}}
    assert "spline-autoregressive" not in [one.name for one in candidates(seen[0])]


def test_rounded_values_may_reach_their_bounds():
    """Humidity in whole percents is 100 at times."""
    draws = numpy.random.default_rng(0)
    rows = numpy.c_[draws.normal(size=200), numpy.clip(draws.integers(60, 120, 200), 0, 100)]
    density = FlowDensity(**TINY, bounds={"x1": (0, 100)}).fit(rows)
    assert density.rounding_ == {"x1": 1.0}
    end, middle, near = density.score_samples(numpy.array([[0, 100.0], [0, 99.75], [0, 99.9]]))
    assert end == pytest.approx(middle, abs=1e-3)
    assert abs(near - middle) > 1e-2


@pytest.mark.parametrize("bounds", [{"y": (0, None)}, {"y": (0, 1)}, None])
def test_a_rounded_target_is_predicted_as_it_is_in_the_data(bounds):
    """Noise of a step within a bound moves the mean: half of a zero's step lies beyond it."""
    draws = numpy.random.default_rng(0)
    rows = draws.normal(size=(1000, 1))
    y = (draws.random(1000) < 0.15).astype(float)
    settings = {"model": "SplineFlow", "bounds": bounds, "device": "cpu"}
    regressor = FlowRegressor(0.05, **settings).fit(rows, y)
    assert regressor.rounding_ == {"y": 1}
    # So short a fit is up to 0.08 away. Noise would add 0.21: a quarter to each zero, 85 %.
    assert regressor.predict(rows).mean() == pytest.approx(y.mean(), abs=0.12)
    low, middle = regressor.predict_quantiles(rows, [0.05, 0.5]).T
    assert (low <= y).mean() > 0.9
    assert (middle == 0).mean() > 0.9
    drawn = regressor.sample(rows, 5, random_state=0)
    assert (drawn == drawn.round()).all()
    assert drawn.mean() == pytest.approx(y.mean(), abs=0.12)
    assert numpy.isfinite(regressor.score_samples(rows, drawn[:, 0])).all()


def test_samples_of_a_rounded_column_are_rounded():
    draws = numpy.random.default_rng(0)
    frame = pandas.DataFrame({"a": draws.normal(size=200), "n": draws.poisson(3, 200)})
    density = FlowDensity(**TINY, bounds={"n": (0, None)}).fit(frame)
    drawn = density.sample(100, random_state=0)
    assert (drawn["n"] == drawn["n"].round()).all()
    assert (drawn["n"] >= 0).all()
    assert numpy.isfinite(density.score_samples(drawn)).all()


@pytest.mark.parametrize("named", [False, True])
def test_the_target_of_a_regressor_has_bounds(named):
    name, y = ("part", pandas.Series(PART, name="part")) if named else ("y", PART)
    regressor = FlowRegressor(**TINY, bounds={name: (0, 1)}).fit(X, y)
    low, middle, high = regressor.predict_quantiles(X, [0.001, 0.5, 0.999]).T
    assert (low > 0).all()
    assert ((low < middle) & (middle < high)).all()
    assert (high < 1).all()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (FlowDensity, {"bounds": {"x0": (-9, 1)}}, "x0 is not within .* -9 and 1"),
        (FlowDensity, {"bounds": {"x3": (0, 1)}}, "bounds: there is no column 'x3'"),
        (FlowDensity, {"bounds": "x0"}, "bounds='x0': a dictionary by names of columns"),
        (FlowDensity, {"periodic": {"x3": 360}}, "periodic: there is no column 'x3'"),
        (
            FlowDensity,
            {"periodic": {"x1": 9}, "model": "SplineFlow", "config": None},
            "'periodic' belongs to .*'tabular', not 'spline'",
        ),
        (
            FlowDensity,
            {"periodic": {"x1": 9}, "config": {"periodic": {"x1": 9}}},
            "periodic stands in config, too",
        ),
        (FlowRegressor, {"bounds": {"x0": (0, 1)}}, "bounds: there is no column 'x0'"),
        (FlowRegressor, {"periodic": {"x0": 9}}, "periodic: there is no column 'x0'"),
    ],
)
def test_what_cannot_be_stated_is_one_line(kind, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        kind(**{**TINY, **settings}).fit(X, X[:, 0])
    assert "\n" not in str(error.value)


def test_a_class_of_another_package_may_be_named(monkeypatch):
    """Its layers look at numbers when they are made."""

    @dataclass(frozen=True)
    class TheirConfig(ColumnsConfig):
        kind: ClassVar[str] = "theirs"

    class Theirs(FlowModel):
        config_types = (TheirConfig,)

        def build(self):
            masked = MaskedAffineAutoregressiveTransform(self.config.features, 8)
            return table_transform(self.config, [masked])

    monkeypatch.setattr(classes, "_CLASSES", dict(classes._CLASSES))
    register_model(Theirs)
    density = FlowDensity(0.001, model="Theirs", device="cpu").fit(X)
    assert type(density.model_) is Theirs


def test_a_regressor_predicts_the_density_of_a_target():
    y = 2 * X[:, 0] - X[:, 1] + RANDOM.normal(0, 0.5, 200)
    regressor = FlowRegressor(**SMALL).fit(pandas.DataFrame(X, columns=["a", "b"]), y)
    frame = pandas.DataFrame(X, columns=["a", "b"])
    assert regressor.score(frame, y) > 0.5
    low, middle, high = regressor.predict_quantiles(frame, [0.05, 0.5, 0.95]).T
    assert (low < middle).all()
    assert (middle < high).all()
    assert 0.7 < ((low < y) & (y < high)).mean() <= 1
    drawn = regressor.sample(frame[:3], 400, random_state=0)
    assert drawn.shape == (3, 400)
    assert numpy.abs(drawn.mean(axis=1) - regressor.predict(frame[:3])).max() < 0.5
    grid = numpy.linspace(-20, 30, 2001)
    rows = pandas.concat([frame[:1]] * len(grid), ignore_index=True)
    density = numpy.exp(regressor.score_samples(rows, grid))
    assert numpy.trapezoid(density, grid) == pytest.approx(1, abs=0.01)
    assert regressor.score_samples(frame, y).mean() > norm.logpdf(y, y.mean(), y.std()).mean()


def test_the_mean_of_a_skewed_target():
    """Log-normal: the largest values of a target weigh most in its mean."""
    y = numpy.exp(X[:, 0] + 2 * RANDOM.normal(size=200))
    regressor = FlowRegressor(**QUICK, bounds={"y": (0, None)}).fit(X, y)
    logs = numpy.linspace(-15, 25, 4001)
    at_one = numpy.repeat(X[:1], len(logs), axis=0)
    density = numpy.exp(regressor.score_samples(at_one, numpy.exp(logs)) + logs)  # of log y
    mean = numpy.trapezoid(numpy.exp(logs) * density, logs)
    assert numpy.trapezoid(density, logs) == pytest.approx(1, rel=1e-3)
    assert regressor.predict(X[:1])[0] == pytest.approx(mean, rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({}, numpy.column_stack([X, X[:, 0]]), "column 'x2' is a copy of 'x0': it has no density"),
        ({}, numpy.column_stack([X, 0 * X[:, 0]]), "column 'x2' is constant: it has no density"),
        ({"model": "Flow"}, X, "unknown model 'Flow'.*; or a candidate: implicit-sines, "),
        ({"config": {"colour": 3}}, X, "unknown config key 'colour'"),
        ({"minutes": 0}, X, "minutes=0: a positive number"),
    ],
)
def test_mistakes_are_named(settings, rows, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        FlowDensity(**{**QUICK, **settings}).fit(rows)


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize("kind", [pandas.Series, pandas.DataFrame])
def test_a_target_has_its_name(kind):
    y = pandas.Series(numpy.exp(X[:, 0]), name="price")
    regressor = FlowRegressor(**SMALL, bounds={"price": (0, None)})
    assert regressor.fit(X, kind(y)).model_.columns == ("price",)


def test_weights_move_the_density_to_heavy_rows():
    right = X[:, 0] > 3
    density = FlowDensity(**QUICK).fit(X, sample_weight=numpy.where(right, 1.0, 0.0))
    drawn = density.sample(500, random_state=0)
    assert drawn.mean(axis=0) == pytest.approx(X[right].mean(axis=0), abs=0.2)
    regressor = FlowRegressor(**QUICK)
    y = numpy.where(right, 2.0, -5.0) + RANDOM.normal(0, 0.1, 200)
    regressor.fit(X, y, sample_weight=right)
    assert regressor.predict(X).mean() == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(-numpy.ones(200), "Negative values"), (numpy.zeros(200), "zero")],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        FlowDensity(**QUICK).fit(X, sample_weight=weights)


def test_angles_of_many_turns_keep_their_digits():
    """Of 28 million turns float32 leaves no angle."""
    turns = numpy.array([0.0, 360.0 * 28_000_000])
    density = FlowDensity(**TINY, **KNOWN).fit(numpy.column_stack([PART, TURN]))
    one, many = (density.score_samples(numpy.column_stack([PART, TURN + far])) for far in turns)
    assert many == pytest.approx(one, abs=1e-4)
    regressor = FlowRegressor(**TINY, periodic={"y": 360.0}).fit(X, TURN)
    one, many = (regressor.score_samples(X, TURN + far) for far in turns)
    assert many == pytest.approx(one, abs=1e-4)


def test_levels_out_of_range_are_refused():
    regressor = FlowRegressor(**QUICK).fit(X, X[:, 0] ** 2)
    with pytest.raises(ValueError, match=r"q=\[0, 0.5\]: levels between 0 and 1"):
        regressor.predict_quantiles(X, [0, 0.5])


def test_an_angle_has_no_quantiles_and_no_mean():
    """Its map may begin the turn anywhere, where values begin it at zero."""
    regressor = FlowRegressor(**TINY, periodic={"y": 360.0}).fit(X, TURN)
    with pytest.raises(ValueError, match="'y' is an angle, .* quantiles: use sample"):
        regressor.predict_quantiles(X, [0.5])
    with pytest.raises(ValueError, match="'y' is an angle, .* mean: use sample"):
        regressor.predict(X)  # that of 1 and 359 degrees is not 180


def test_an_interrupt_stops_a_cross_validation_as_a_whole(monkeypatch):
    step, fits = Trainer.step, []

    def interrupted(self):
        if self.state["step"] == 0:
            fits.append(self)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):  # a score of NaN, and the next fit, would be no answer
        cross_val_score(FlowDensity(**SMALL), X, cv=3)
    assert len(fits) == 1
