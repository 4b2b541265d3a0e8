"""Monotone flows are models of the zoo: their density, samples, certificate and training."""

from __future__ import annotations

import pytest
import torch
from support.small_models import write_recipe

from impflow_zoo import ImageConfig, MonotoneFlow, TabularConfig, create_model, evaluate, training
from impflow_zoo.lipschitz.certify import certify

SMALL = {"features": 2, "blocks": 2, "hidden_features": [8, 8], "lipschitz": 0.9}


def model(config: TabularConfig | ImageConfig) -> MonotoneFlow:
    """A model whose nets are at their bounds, in float64."""
    torch.manual_seed(0)
    made = MonotoneFlow(config).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p += 0.5 * torch.randn_like(p)
    return made


@pytest.mark.parametrize("settings", [{}, {"net": "spectral"}, {"periodic": {"a": 6.0}}], ids=str)
def test_log_determinants_are_those_of_the_dense_jacobian(settings):
    flow = model(TabularConfig(2, columns=["a", "b"], blocks=2, hidden_features=[8, 8], **settings))
    x = flow.sample(10)
    z, forth = flow.transform(x)
    back, logabsdet = flow.transform.inverse(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(logabsdet, -forth)
    rows = [torch.autograd.functional.jacobian(lambda r: flow.encode(r[None])[0], row) for row in x]
    torch.testing.assert_close(torch.linalg.slogdet(torch.stack(rows))[1], forth.detach())


def test_its_density_integrates_to_one():
    flow = model(TabularConfig(**{**SMALL, "features": 1}))
    x = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
    assert float(torch.trapezoid(flow.log_prob(x[:, None]).exp().detach(), x)) == pytest.approx(1)


def test_images_come_back():
    flow = model(ImageConfig(channels=1, image_size=(4, 4), blocks=(1, 1), width=4))
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(flow.decode(flow.encode(x)), x)


def test_it_is_trained_saved_scored_and_certified(tmp_path):
    recipe = write_recipe(tmp_path, model="MonotoneFlow", config={"kind": "tabular", **SMALL})
    training.train(recipe, out=tmp_path / "run")
    loaded = create_model(str(tmp_path / "run"), verify=True)
    assert type(loaded) is MonotoneFlow
    assert evaluate(loaded, "toy:moons", limit=50).n == 50
    assert [c.bound <= 0.9 * (1 + 1e-6) for c in certify(loaded)] == [True, True]
