"""The registry of model classes: those of other packages are trained, saved, loaded like ours."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from nflows.transforms import (
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    Transform,
)
from support.small_models import config, rows, write_recipe

from impflow_zoo import ResFlow, TabularConfig, create_model, register_model, training
from impflow_zoo.models import classes
from impflow_zoo.models.classes import model_class, model_names
from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.transforms.standardise import Standardise
from impflow_zoo.transforms.whitening import Whitening


@dataclass(frozen=True)
class GaussianConfig(ColumnsConfig):
    """A correlated Gaussian."""

    kind: ClassVar[str] = "gaussian"


class Gaussian(FlowModel):
    config_types: ClassVar = (GaussianConfig,)

    def build(self) -> Transform:
        n = self.config.features
        return CompositeTransform([Standardise(n), Whitening(n)])


class Masked(Gaussian):
    """Its layers look at numbers when they are made, as most of nflows do."""

    def build(self) -> Transform:
        n, given = self.config.features, self.config.context_features
        masked = MaskedAffineAutoregressiveTransform(n, 8, context_features=given)
        return CompositeTransform([Standardise(n), masked])


@pytest.fixture
def _empty_registry(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(classes, "_CLASSES", dict(classes._CLASSES))


@pytest.mark.usefixtures("_empty_registry")
@pytest.mark.parametrize("cls", [Gaussian, Masked])
def test_a_registered_class_is_a_model_like_ours(cls, tmp_path):
    assert register_model(cls) is cls
    recipe = write_recipe(tmp_path, cls.__name__, config={"kind": "gaussian", "features": 2})
    training.train(recipe, out=tmp_path / "run", progress=False)
    assert type(create_model(tmp_path / "run", verify=True)) is cls


def test_a_map_that_standardises_no_contexts_is_named():
    model = Masked(GaussianConfig(features=2, context_features=1))
    with pytest.raises(ModelError, match="no StandardisedContext.*make the map by table_transform"):
        model.fit_preprocessing(rows(5), torch.randn(5, 1, dtype=torch.float64))
    model.fit_preprocessing(rows(5))  # contexts as they are


@pytest.mark.usefixtures("_empty_registry")
def test_an_entry_point_is_loaded_when_its_name_is_asked_for(tmp_path, monkeypatch):
    folder = tmp_path / "their_flows-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-flows\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[impflow_zoo.models]\nTheirFlow = their_flows:TheirFlow\n"
    )
    (tmp_path / "their_flows.py").write_text(
        "from impflow_zoo import ResFlow, register_model\n"
        "@register_model\nclass TheirFlow(ResFlow):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "their_flows" not in sys.modules
    assert "TheirFlow" in model_names()
    assert read_recipe(write_recipe(tmp_path, "TheirFlow")).model == "TheirFlow"
    assert issubclass(model_class("TheirFlow"), ResFlow)


@pytest.mark.usefixtures("_empty_registry")
def test_names_and_kinds_belong_to_one_class():
    with pytest.raises(ModelError, match="ResFlow is already registered, by impflow_"):
        register_model(type("ResFlow", (ResFlow,), {}))
    other = dataclass(frozen=True)(type("Other", (), {"kind": TabularConfig.kind}))
    with pytest.raises(ModelError, match="'tabular' belong to another model"):
        register_model(type("Mine", (FlowModel,), {"config_types": (other,)}))
    without = dataclass(frozen=True)(type("Without", (ColumnsConfig,), {}))
    with pytest.raises(ModelError, match="Without has no `kind`"):
        register_model(type("Mine", (FlowModel,), {"config_types": (without,)}))
    assert "Mine" not in model_names()


@pytest.mark.usefixtures("_empty_registry")
def test_a_cell_that_registers_a_class_may_run_again():
    def cell() -> type[FlowModel]:
        kind = dataclass(frozen=True)(type("Config", (ColumnsConfig,), {"kind": "again"}))
        return register_model(type("Mine", (FlowModel,), {"config_types": (kind,)}))

    first, second = cell(), cell()
    assert model_class("Mine") is second is not first


@pytest.mark.usefixtures("_empty_registry")
def test_the_nearest_class_that_is_registered_is_the_one_saved(tmp_path):
    mine = register_model(type("Mine", (ResFlow,), {}))
    type("Younger", (mine,), {})(config()).save_pretrained(tmp_path)
    assert type(create_model(tmp_path)) is mine


def test_what_is_not_registered_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown model 'NoFlow': there are .*ImpFlow, L"):
        read_recipe(write_recipe(tmp_path, "NoFlow"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            {"build": lambda self: None},
            "Mine.build returned NoneType",
        ),
        ({}, "Mine has no method build .*block_kinds"),
    ],
    ids=["returns-nothing", "is-missing"],
)
def test_a_class_without_a_map_is_named(build, message):
    mine = type("Mine", (FlowModel,), {"config_types": (GaussianConfig,), **build})
    with pytest.raises(ModelError, match=message):
        mine(GaussianConfig(features=2))
