"""One recipe with plain, rounded, bounded, periodic and given columns: the one of the guide."""

from __future__ import annotations

import re

import pandas
import torch
import yaml
from support.checkout import CHECKOUT
from support.small_models import write_recipe

from impflow_zoo import create_model, evaluate, training

GUIDE = (CHECKOUT / "docs" / "columns.md").read_text()


def weather(n: int) -> pandas.DataFrame:
    """Rows that reach their bounds, with winds from both sides of north."""
    torch.manual_seed(0)
    month = torch.randint(1, 13, (n,)).double()
    noise = torch.randn(n, 4, dtype=torch.float64)
    return pandas.DataFrame(
        {
            "month": month,
            "humidity": (80 + 15 * noise[:, 0]).clamp(0, 100).round(),
            "rain": (noise[:, 1].exp() - 1).clamp(min=0).mul(10).round().div(10),
            "wind": (30 * noise[:, 2]).div(10).round().mul(10).remainder(360),
            "temperature": 10 - 8 * (month / 6 * torch.pi).cos() + 3 * noise[:, 3],
        }
    )


def test_the_recipe_of_the_guide_trains_and_samples(tmp_path):
    (text,) = re.findall(r"```yaml\n(model: .*?)```", GUIDE, re.DOTALL)
    config = yaml.safe_load(text)["config"]
    file = tmp_path / "train.csv"
    weather(300).to_csv(file, index=False)
    recipe = write_recipe(
        tmp_path,
        config={**config, "blocks": 2, "hidden_features": [8], "whiten": True},
        data={"dataset": str(file), "validation_rows": 60},
    )
    training.train(recipe, out=tmp_path / "run", progress=False)
    model = create_model(tmp_path / "run", verify=True)
    result = evaluate(model, str(file), "train")
    assert result.n == 300
    assert result.round_trip < 1e-3
    assert [column.column for column in result.predictive] == config["columns"]
    x = model.sample(200, torch.tensor([[1.0], [7.0]]))
    assert x.shape == (2, 200, 4)
    humidity, rain, wind, _ = x.flatten(0, 1).T
    assert bool(((humidity > 0) & (humidity < 100) & (rain > 0)).all())
    assert bool(((wind >= 0) & (wind < 360)).all())
    rows = x[0, :20]
    turned = rows + torch.tensor([0.0, 0.0, 360.0, 0.0])
    context = torch.ones(20, 1)
    torch.testing.assert_close(
        model.log_prob(turned, context), model.log_prob(rows, context), rtol=1e-3, atol=1e-3
    )
