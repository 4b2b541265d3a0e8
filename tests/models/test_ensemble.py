"""The mixture of models: its density, its samples, what it refuses."""

from __future__ import annotations

import pytest
import torch
from support.small_models import make, rows

from impflow_zoo import Ensemble, ImageConfig, ImpFlow, ResFlow, create_model, evaluate
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.models.fields import ModelError

NAMES = {"columns": ("a", "b"), "context_columns": ("t",)}


def test_its_density_is_the_mean_of_those_of_its_models():
    models, x = [make(columns=("a", "b")) for _ in range(3)], rows()
    ensemble = Ensemble(models)
    expected = torch.stack([model.log_prob(x).exp() for model in models]).mean(dim=0).log()
    torch.testing.assert_close(ensemble.log_prob(x), expected)
    assert ensemble.columns == ("a", "b")


def test_samples_come_from_all_of_its_models():
    models = [make(), make()]
    with torch.no_grad():
        models[1].transform.get_buffer("_transforms.0._shift").sub_(1000)
    drawn = Ensemble(models).sample(400, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (400, 2)
    assert 140 < int((drawn[:, 0] > 500).sum()) < 260


def test_contexts_and_frames():
    ensemble = Ensemble(make(**NAMES) for _ in range(2))
    frame = ensemble.sample(3, torch.tensor([[0.5], [1.5]]), as_frame=True)
    assert list(frame.columns) == ["a", "b", "t"]
    assert frame["t"].tolist() == [0.5] * 3 + [1.5] * 3
    assert ensemble.log_prob(frame).shape == (6,)


def test_columns_of_its_frames_have_the_types_of_a_single_model():
    models = [make(columns=("a", "b"), rounding={"b": 0.1}).float() for _ in range(2)]
    drawn = Ensemble(models).sample(5, rounded=True, as_frame=True)
    assert list(map(str, drawn.dtypes)) == ["float32", "float64"]


def test_it_is_saved_loaded_and_evaluated_as_its_models_are(tmp_path):
    models, x = [make(columns=("a", "b")) for _ in range(3)], rows(50)
    ensemble = Ensemble(models).eval()
    ensemble.save_pretrained(tmp_path / "three")
    loaded = create_model(tmp_path / "three", verify=True)
    assert isinstance(loaded, Ensemble)
    torch.testing.assert_close(loaded.log_prob(x), ensemble.log_prob(x))
    found = evaluate(loaded, x)
    assert found.value == pytest.approx(float(ensemble.log_prob(x).detach().mean()))
    assert found.round_trip == max(evaluate(model, x).round_trip for model in models)
    stated = loaded.folder.config()
    assert (stated.model, stated.members) == ("ImpFlow", 3)
    assert {c.name.split(".")[1] for c in stated.certificate} == {"0", "1", "2"}
    assert stated.certificate == tuple(certify(ensemble))
    assert "from impflow_zoo import Ensemble" in (tmp_path / "three" / "README.md").read_text()
    with pytest.raises(ModelError, match="a model of type Ensemble, not ImpFlow"):
        ImpFlow.from_pretrained(tmp_path / "three")


def test_an_ensemble_of_one_model_is_saved_and_loaded(tmp_path):
    ensemble, x = Ensemble([make(columns=("a", "b"))]).eval(), rows()
    ensemble.save_pretrained(tmp_path)
    loaded = create_model(tmp_path, verify=True)
    assert isinstance(loaded, Ensemble)
    torch.testing.assert_close(loaded.log_prob(x), ensemble.log_prob(x))


def test_an_ensemble_is_mixed_with_another_model():
    first, *others = (make(columns=("a", "b")) for _ in range(3))
    whole, x = Ensemble([first, Ensemble(others)]), rows(9)
    shares = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()[:, None]
    single = torch.stack([model.log_prob(x) for model in (first, *others)])
    torch.testing.assert_close(whole.log_prob(x), (shares + single).logsumexp(dim=0))
    result = evaluate(whole, x)
    assert result.value == pytest.approx(float(whole.log_prob(x).mean().detach()))
    assert result.round_trip < 1e-6


def test_the_error_of_its_estimator_is_that_of_the_mixture():
    models = [make(logdet={"mode": "truncated", "n_terms": 3, "n_probes": 4}) for _ in range(2)]
    x = rows()
    (first, one), (second, two) = (model.log_prob_with_error(x) for model in models)
    value, error = Ensemble(models).log_prob_with_error(x)
    total = torch.logaddexp(first, second)
    expected = ((first - total).exp() * one).square() + ((second - total).exp() * two).square()
    torch.testing.assert_close(error, expected.sqrt())
    torch.testing.assert_close(value, Ensemble(models).log_prob(x))


@pytest.mark.parametrize("mode", ["truncated", "unbiased"])
def test_one_model_that_estimates_makes_its_score_an_estimate(mode):
    models = [make(columns=("a", "b"), logdet={"mode": one}) for one in ("exact", mode)]
    for order in (models, models[::-1]):
        result = evaluate(Ensemble(order), rows(9))
        assert result.logdet == mode
        assert result.estimator_stderr > 0
        assert f"(log-det {mode})" in result.report("it")
        assert ("truncation" in result.report("it")) == (mode == "truncated")


def test_it_has_no_map_to_noise_and_models_of_several_configs_are_not_saved_together(tmp_path):
    ensemble = Ensemble([make(), make(ResFlow)])
    with pytest.raises(ModelError, match="ensemble has no map data -> noise"):
        ensemble.encode(rows())
    with pytest.raises(ModelError, match="an ensemble of models of several configs"):
        ensemble.save_pretrained(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: [], "an ensemble of no models"),
        (lambda: [make(columns=("a", "b")), make(columns=("b", "a"))], "models of other columns"),
        (lambda: [make(columns=("a", "b")), make(**NAMES)], "models of other contexts"),
        (
            lambda: [make(columns=("a", "b"), bounds={"a": (0, 9)}), make(columns=("a", "b"))],
            r"models of other bounds: {}, .*{'a': \(0.0, 9.0\)}",
        ),
        (
            lambda: [make(columns=("a", "b"), periodic={"a": 9.0}), make(columns=("a", "b"))],
            "models of other periods",
        ),
        (
            lambda: [make(columns=("a", "b"), rounding={"a": 1.0}), make(columns=("a", "b"))],
            "models of other rounding",
        ),
        (lambda: [make(), make().float()], "models of other float types: torch.float32"),
        (
            lambda: [ResFlow(ImageConfig(image_size=(4, 4), blocks=(1,), width=2))],
            "models of tables, not ResFlow",
        ),
    ],
)
def test_models_that_do_not_belong_together_are_refused(models, message):
    with pytest.raises(ModelError, match=message):
        Ensemble(models())
