"""The reference is complete: every public name is listed, every argument has a line."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import nflows.transforms
import normflows
import pytest
import torch
from support.checkout import CHECKOUT
from torch import Tensor
from torch.nn import Module

import impflow_zoo
from impflow_zoo import (
    ImpFlowTransform,
    MonotoneTransform,
    RadialTransform,
    ResFlowTransform,
    VariationalDequantisation,
)
from impflow_zoo.normflows import ImpFlowLayer, ResFlowLayer, TransformLayer
from impflow_zoo.transforms.actnorm import ActNorm
from impflow_zoo.transforms.context import StandardisedContext
from impflow_zoo.transforms.images import Flatten, ImageLogit, Multiscale
from impflow_zoo.transforms.interval import Interval
from impflow_zoo.transforms.labels import OneHotContext, PerLabel
from impflow_zoo.transforms.mixture import MixtureAutoregressive
from impflow_zoo.transforms.standardise import Standardise
from impflow_zoo.transforms.torus import Angles, CircleToLine, OnColumns
from impflow_zoo.transforms.whitening import Whitening
from impflow_zoo.transforms.whole import WholeTransform

PAGE = (CHECKOUT / "docs" / "api.md").read_text(encoding="utf-8")
LISTED = [f"impflow_zoo.{name}" for name in re.findall(r"^   ([\w.]+)$", PAGE, re.MULTILINE)]
# Methods that the public contract promises, beside the names of `__all__`.
METHODS = {
    "ImpFlow": "from_pretrained log_prob log_prob_with_error sample transform bits_per_dim "
    "save_pretrained push_to_hub to_normflows",
    "ImpFlowTransform": "forward inverse encode decode",
    "SandwichMLP": "certificate",
    "Solver": "solve",
}


def thing(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def described(value: Any) -> set[str]:
    """Arguments with a line in the docstring, or in those of bases that have a page."""
    bases = inspect.getmro(value)[1:] if inspect.isclass(value) else ()
    known = [thing(name) for name in LISTED]
    classes = (value, *(base for base in bases if any(base is one for one in known)))
    found: set[str] = set()
    for one in classes:
        text = inspect.cleandoc(one.__doc__ or "")
        section = re.search(r"^Arguments:\n((?: .*\n|\n)*)", text + "\n", re.MULTILINE)
        lines = re.findall(r"^ {4}(\w[\w, ]*):", section[1] if section else "", re.MULTILINE)
        found |= {word for line in lines for word in line.split(", ")}
    return found


def promised() -> Iterator[str]:
    """The modules that are promised not to change."""
    text = (CHECKOUT / "UPGRADING.md").read_text(encoding="utf-8")
    names = re.search(r"^- the names of (.*?);$", text, re.MULTILINE | re.DOTALL)
    assert names
    for name in re.findall(r"`([\w.]+)`", names[1]):
        module = importlib.import_module(f"impflow_zoo{name.removeprefix('impflow_zoo')}")
        inner = pkgutil.iter_modules(module.__path__) if name == ".transforms" else ()
        yield from [module.__name__, *(f"{module.__name__}.{file.name}" for file in inner)]


@pytest.mark.parametrize("module", [*promised()])
def test_every_public_name_is_listed(module: str) -> None:
    known = [thing(name) for name in LISTED]
    for name in getattr(importlib.import_module(module), "__all__", ()):
        assert any(thing(f"{module}.{name}") is one for one in known), name


@pytest.mark.parametrize("name", LISTED)
def test_every_argument_has_a_line(name: str) -> None:
    value = thing(name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert inspect.getdoc(value)
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    called = value.__init__ if inspect.isclass(value) else value
    arguments = {*inspect.signature(called).parameters} - {"self", "args", "kwargs"}
    assert arguments <= described(value), arguments - described(value)


def test_settings_of_a_base_have_a_page_that_is_named() -> None:
    """The page of a config describes its own settings and names the base with the others."""
    configs = [kind for kind in map(thing, LISTED) if dataclasses.is_dataclass(kind)]
    for kind in configs:
        for base in filter(dataclasses.is_dataclass, inspect.getmro(kind)[1:]):
            assert base in configs, base
            assert f"`{base.__module__}.{base.__qualname__}`" in inspect.getdoc(kind)


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in METHODS for method in METHODS[name].split()]
)
def test_the_methods_of_the_contract_are_described(name: str, method: str) -> None:
    assert inspect.getdoc(getattr(getattr(impflow_zoo, name), method))


@pytest.mark.parametrize("name", LISTED)
def test_both_directions_are_described_by_us(name: str) -> None:
    """Else the page has what torch says of any module."""
    value = thing(name)
    if inspect.isclass(value) and issubclass(value, Module):
        own = {method: vars(value).get(method) for method in ("forward", "inverse")}
        assert all(method.__doc__ for method in own.values() if method), own


@pytest.mark.parametrize("method", METHODS["ImpFlowTransform"].split())
@pytest.mark.parametrize("block", ["ImpFlowTransform", "ResFlowTransform", "MonotoneTransform"])
def test_methods_of_blocks_state_shapes_and_errors(block: str, method: str) -> None:
    text = inspect.getdoc(getattr(getattr(impflow_zoo, block), method)) or ""
    assert "with shape `[B, ...]`" in text
    assert re.search(r"^Raises:\n +SolverError", text, re.MULTILINE)


SHAPE = re.compile(r"`\(?\[|`\([^)]*,|shape")


def shown(kind: type) -> Iterator[str]:
    """The methods that the page of a class describes: those of this package."""
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        ours = (getattr(method, "__module__", None) or "").startswith("impflow_zoo")
        if inspect.isfunction(method) and ours and not name.startswith("_"):
            yield name


def layers() -> Iterator[type]:
    """Transforms and layers on the page, and what other libraries take."""
    for name in LISTED:
        value = thing(name)
        kinds = (nflows.transforms.Transform, normflows.flows.Flow, torch.distributions.Transform)
        if inspect.isclass(value) and (issubclass(value, kinds) or ".sklearn." in name):
            yield value


@pytest.mark.parametrize("kind", [*layers()])
def test_a_page_that_describes_a_direction_describes_both(kind: type) -> None:
    if issubclass(kind, (nflows.transforms.Transform, normflows.flows.Flow)):
        directions = {"forward", "inverse"}
        assert directions & {*shown(kind)} in (directions, set())


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in map(thing, LISTED) if inspect.isclass(kind) for name in shown(kind)],
)
def test_methods_that_return_tensors_or_tables_state_shapes(kind: type, name: str) -> None:
    method = getattr(kind, name)
    returned = str(inspect.signature(method).return_annotation)
    if re.search(r"Tensor|ndarray|FoldedNet|^Any$", returned):
        assert SHAPE.search(inspect.getdoc(method) or "")


NET = impflow_zoo.LipschitzMLP(2, (4,))
LABELS = torch.tensor([[0.0], [1.0], [0.0]])
# One of each layer, the shape of a row, and contexts of three rows.
MADE: list[tuple[Module, tuple[int, ...], Tensor | None]] = [
    (ImpFlowTransform(NET, NET), (2,), None),
    (ResFlowTransform(NET), (2,), None),
    (MonotoneTransform(NET), (2,), None),
    (RadialTransform(2), (2,), None),
    (VariationalDequantisation(1), (1, 3, 3), None),
    (ImpFlowLayer(NET, NET), (2,), None),
    (ResFlowLayer(NET), (2,), None),
    (TransformLayer(RadialTransform(2)), (2,), None),
    (ActNorm(2), (2,), None),
    (Whitening(2), (2,), None),
    (Standardise(2), (2,), None),
    (Interval([0.0, 0.0], [1.0, math.inf]), (2,), None),
    (ImageLogit(), (2, 1, 1), None),
    (Flatten((2, 1, 1)), (2, 1, 1), None),
    (Multiscale([RadialTransform(2), RadialTransform(1)], [(1, 1, 1)] * 2), (2, 1, 1), None),
    (Angles([0.0, 1.0]), (2,), None),
    (CircleToLine(), (2,), None),
    (OnColumns(RadialTransform(1), [1]), (2,), None),
    (WholeTransform([Standardise(2)], (2,)), (2,), None),
    (StandardisedContext([PerLabel(2, 1)], (2,), 1), (2,), torch.rand(3, 1)),
    (OneHotContext([PerLabel(2, 2)], (2,), 2), (2,), LABELS),
    (PerLabel(2, 2), (2,), torch.eye(2)[[0, 1, 0]]),
    (MixtureAutoregressive(2, 3, 4), (2,), None),
]
BASES = {"ResidualBlock", "ConditionalTransform", "FirstBatch", "BlockTransform", "ColumnByColumn"}


def test_one_of_each_layer_is_made() -> None:
    made = {type(layer).__name__ for layer, _, _ in MADE}
    known = {kind.__name__ for kind in layers() if not kind.__module__.endswith("sklearn")}
    assert made == known - BASES


def refused(method: Callable[..., Any], *given: Any) -> BaseException | None:
    try:
        method(*given)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("layer", MADE, ids=lambda made: type(made[0]).__name__)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_layers_return_and_raise_what_they_state(layer: Any, training: bool) -> None:
    """Class docstrings speak for directions that are another package's."""
    made, shape, context = layer
    made.train(training)
    x = 0.1 + 0.8 * torch.rand(3, *shape)
    z, logdet = made(x, context)
    assert logdet.shape == (3,)
    assert made.inverse(z, context)[0].shape == x.shape
    for direction, rows in (("forward", x), ("inverse", z)):
        method = getattr(made, direction)
        ours = method.__func__.__module__.startswith("impflow_zoo")
        text = inspect.getdoc(method if ours else type(made)) or ""
        _, _, stated = text.partition("Raises:" if ours else "raise")
        others = [rows.repeat_interleave(2, dim=1), rows[:, :1], rows * math.nan, rows - 2]
        calls = [(other, context) for other in others]
        if context is not None:
            calls += [(rows, None), (rows, context[:2]), (rows, context.double() + 0.5)]
        for call in calls:
            if error := refused(method, *call):
                kinds = {kind.__name__ for kind in type(error).__mro__} - {"Exception"}
                assert kinds & {*re.findall(r"\w+", stated)}, (direction, error)


def test_estimators_raise_what_they_state() -> None:
    pytest.importorskip("sklearn")
    from impflow_zoo.sklearn import FlowDensity, FlowRegressor

    rows = torch.randn(20, 2).numpy()
    quick = {"minutes": 0.001, "model": "LinearGaussian", "device": "cpu"}
    density, regressor = FlowDensity(**quick), FlowRegressor(**quick)
    calls: dict[Any, Any] = {
        (density, "score_samples"): (rows,),
        (density, "score"): (rows,),
        (density, "sample"): (3,),
        (regressor, "predict"): (rows,),
        (regressor, "predict_quantiles"): (rows, [0.5]),
        (regressor, "sample"): (rows, 3),
        (regressor, "score_samples"): (rows, rows[:, 0]),
    }
    for (estimator, name), given in calls.items():
        method = getattr(estimator, name)
        _, _, stated = (inspect.getdoc(method) or "").partition("Raises:")
        error = refused(method, *given)
        assert type(error).__name__ in stated
    density.fit(rows)
    regressor.fit(rows, rows.sum(axis=1) ** 2)
    for (estimator, name), (first, *rest) in calls.items():
        method = getattr(estimator, name)
        _, _, stated = (inspect.getdoc(method) or "").partition("Raises:")
        error = refused(method, -1 if name == "sample" and not rest else first[:, :1], *rest)
        assert isinstance(error, ValueError)
        assert "ValueError" in stated


def test_transforms_of_zuko_raise_what_they_state() -> None:
    pytest.importorskip("zuko")
    from impflow_zoo.zuko import BlockTransform, LazyBlock

    transform = LazyBlock(ResFlowTransform(NET))(torch.zeros(3, 1))
    assert isinstance(transform, BlockTransform)
    y, logdet = transform.call_and_ladj(torch.zeros(2))
    assert (y.shape, logdet.shape) == ((3, 2), (3,))
    for method, given in (
        (transform.call_and_ladj, (torch.zeros(4, 2),)),
        (transform.log_abs_det_jacobian, (torch.zeros(4, 2), torch.zeros(4, 2))),
        (transform, (torch.zeros(4, 2),)),
    ):
        assert isinstance(refused(method, *given), ValueError)
        assert "ValueError" in (inspect.getdoc(method) or "")
