"""Flows whose blocks are of several kinds, and blocks that other packages register."""

from __future__ import annotations

import sys

import pytest
import torch
from nflows.transforms import (
    MaskedAffineAutoregressiveTransform,
    PiecewiseRationalQuadraticCouplingTransform,
    Transform,
)
from safetensors.torch import load_file, save_file
from support.small_models import config, make, rows, write_recipe

from impflow_zoo import (
    ImpFlow,
    ResFlow,
    ResFlowTransform,
    create_model,
    evaluate,
    register_block,
    training,
)
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.models import mixed
from impflow_zoo.models.classes import family_of
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import WEIGHTS
from impflow_zoo.models.folder import WeightsError
from impflow_zoo.models.mixed import BLOCKS
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.transforms.blocks import MonotoneTransform

MIXED = ("spline-coupling", "implicit", "residual", "monotone", "spline-autoregressive")
ENTRY = """
from nflows.transforms import MaskedAffineAutoregressiveTransform
from impflow_zoo import register_block

@register_block("theirs")
def theirs(config, number):
    return MaskedAffineAutoregressiveTransform(config.features, 8)
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(mixed, "BLOCKS", dict(mixed.BLOCKS))


def bent(blocks, kind=ImpFlow, **settings):
    """A model none of whose blocks is the identity."""
    torch.manual_seed(0)
    model = make(kind, blocks=blocks, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


@pytest.mark.parametrize("settings", [{}, {"whiten": True, "actnorm": False}], ids=str)
@pytest.mark.parametrize("names", [MIXED, MIXED[::-1]], ids=["forth", "back"])
def test_it_is_a_map_and_its_inverse(names, settings):
    model = bent(names, **settings)
    x = rows(5)
    z, forth = model.transform(x)
    back, logabsdet = model.transform.inverse(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(logabsdet, -forth)
    torch.testing.assert_close(model.decode(model.encode(x)), x)
    jacobians = [
        torch.autograd.functional.jacobian(lambda r: model.encode(r[None])[0], row) for row in x
    ]
    dense = torch.linalg.slogdet(torch.stack(jacobians))[1]
    torch.testing.assert_close(forth.detach(), dense)
    torch.testing.assert_close(model.log_prob(x), model.flow.log_prob(x))


def test_blocks_come_in_their_order():
    (steps,) = bent(MIXED, actnorm=False).transform.children()
    _, spline, *own, last = steps.children()
    assert [type(block) for block in own] == [
        BLOCKS["implicit"],
        ResFlowTransform,
        MonotoneTransform,
    ]
    splines = [
        m for m in spline.modules() if isinstance(m, PiecewiseRationalQuadraticCouplingTransform)
    ]
    assert len(splines) == 1
    assert last is not spline


@pytest.mark.parametrize(
    ("block", "family"),
    [
        ("implicit", "ImpFlow"),
        ("residual", "ResFlow"),
        ("monotone", "MonotoneFlow"),
        ("spline-coupling", "SplineFlow"),
        ("spline-autoregressive", "SplineFlow"),
        ("radial", None),
    ],
)
def test_a_block_is_named_once_and_belongs_to_a_family(block, family):
    assert block in BLOCKS
    assert family_of(block) == family


def test_a_model_bears_the_name_of_its_blocks():
    with pytest.raises(ConfigError, match="all blocks are of ResFlow"):
        ImpFlow(config(blocks=("residual", "residual")))
    ImpFlow(config(blocks=("spline-coupling",)))  # SplineFlow takes other settings


def test_a_number_and_the_name_of_the_own_kind_are_the_same_model():
    number, names = bent(2, ResFlow), bent(("residual", "residual"), ResFlow)
    assert [b.logdet.seed for b in number.blocks()] == [b.logdet.seed for b in names.blocks()]
    x = rows()
    torch.testing.assert_close(names.log_prob(x), number.log_prob(x), rtol=0, atol=0)


@pytest.mark.parametrize("embedding", [(), (5, 4)])
def test_it_takes_contexts(embedding):
    blocks = ("spline-coupling", "implicit")
    model = bent(blocks, context_features=1, embedding_net=embedding)
    x, contexts = rows(4), torch.arange(4, dtype=torch.float64)[:, None]
    assert not torch.allclose(model.log_prob(x, contexts), model.log_prob(x, contexts.flip(0)))
    torch.testing.assert_close(model.decode(model.encode(x, contexts), contexts), x)


def test_its_density_integrates_to_one():
    model = bent(MIXED)
    line = torch.linspace(-6, 12, 481, dtype=torch.float64)
    with torch.no_grad():
        density = model.log_prob(torch.cartesian_prod(line, line)).exp().view(481, 481)
    mass = torch.trapezoid(torch.trapezoid(density, line), line)
    assert float(mass) == pytest.approx(1, abs=2e-3)


def test_a_recipe_trains_scores_and_saves_it(tmp_path):
    recipe = write_recipe(tmp_path, config={"blocks": ["spline-coupling", "implicit", "implicit"]})
    training.train(recipe, out=tmp_path / "run", progress=False)
    loaded = create_model(tmp_path / "run", verify=True)
    assert loaded.config.blocks == ("spline-coupling", "implicit", "implicit")
    assert evaluate(loaded, "toy:moons", limit=50).round_trip < 1e-3
    assert [c.margin is not None for c in certify(loaded)] == [True] * 4
    flow = loaded.to_normflows()
    x = rows(dtype=torch.float32)
    torch.testing.assert_close(flow.log_prob(x), loaded.log_prob(x))


def test_a_registered_transform_is_a_block_like_ours(tmp_path):
    @register_block("affine-for-a-test")
    def affine(config, number):
        return MaskedAffineAutoregressiveTransform(config.features, 4 + number)

    model = bent(("implicit", "affine-for-a-test"))
    x = rows()
    torch.testing.assert_close(model.decode(model.encode(x)), x)
    model.float().save_pretrained(tmp_path)
    loaded = create_model(tmp_path, verify=True)
    assert any(isinstance(m, MaskedAffineAutoregressiveTransform) for m in loaded.modules())
    weights = load_file(tmp_path / WEIGHTS)
    key = next(key for key in weights if "autoregressive" in key)
    save_file({k: v for k, v in weights.items() if k != key}, tmp_path / WEIGHTS)
    with pytest.raises(WeightsError):
        create_model(tmp_path)


def test_an_entry_point_is_loaded_when_its_name_is_asked_for(tmp_path, monkeypatch):
    folder = tmp_path / "their_blocks-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-blocks\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[impflow_zoo.blocks]\ntheirs = their_blocks:theirs\n")
    (tmp_path / "their_blocks.py").write_text(ENTRY)
    monkeypatch.syspath_prepend(tmp_path)
    assert "their_blocks" not in sys.modules
    recipe = write_recipe(tmp_path, config={"blocks": ["theirs", "residual"]})
    assert read_recipe(recipe).config.blocks == ("theirs", "residual")


BAD = {
    "unknown": (
        {"blocks": ["implicit", "no-such"]},
        "unknown block 'no-such': .*implicit, monotone, radial, residual, spl",
    ),
    "none": ({"blocks": []}, r"blocks=\(\): at least 1 expected"),
    "zero": ({"blocks": 0}, "blocks=0: at least 1"),
    "a number in a list": ({"blocks": [2]}, "'blocks.0.' is 2: str expected"),
    "a name alone": ({"blocks": "implicit"}, "'blocks' is 'implicit': int expected"),
    "angles": (
        {"blocks": ["spline-coupling"], "columns": ["a", "b"], "periodic": {"a": 1.0}},
        "implicit, monotone, residual, not 'spline-coupling'",
    ),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_a_bad_list_is_named(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write_recipe(tmp_path, config=settings))


@pytest.mark.parametrize("name", ["implicit", "spline-coupling"])
def test_a_name_belongs_to_one_block(name):
    with pytest.raises(ModelError, match=f"a block named '{name}' is already registered"):
        register_block(name)(lambda config, number: Transform())


def test_a_cell_that_registers_a_block_may_run_again(monkeypatch):
    monkeypatch.setattr(mixed, "BLOCKS", dict(mixed.BLOCKS))
    cell = "@register_block('again')\ndef make(config, number):\n    return Transform()\n"
    first, second = ({"register_block": register_block, "__name__": "cell"} for _ in range(2))
    exec(cell, first)
    exec(cell, second)
    assert mixed.block_kind("again") is second["make"] is not first["make"]


class Answering(Transform):
    """A transform that answers both ways what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, inputs, context=None):
        return self.answer(inputs)

    inverse = forward


PAIR = "two tensors are needed, rows and log-determinants"
ANSWERS = {
    "nothing": (lambda x: None, f"Answering answers with NoneType: {PAIR}"),
    "rows alone": (lambda x: x, f"Answering answers with Tensor: {PAIR}"),
    "a number": (lambda x: (x, 0.0), f"Answering answers with Tensor, float: {PAIR}"),
    "arrays": (
        lambda x: (x.numpy(force=True), x[:, 0]),
        f"Answering answers with ndarray, Tensor: {PAIR}",
    ),
    "a column": (
        lambda x: (x, x.new_zeros(len(x), 1)),
        r"Answering has log-determinants .*\(6, 1\): \[6\]",
    ),
    "fewer columns": (
        lambda x: (x[:, :1], x.new_zeros(len(x))),
        r"Answering .*rows of shape \(6, 1\) .*\(6, 2\)",
    ),
}


@pytest.mark.parametrize(("answer", "message"), ANSWERS.values(), ids=ANSWERS)
def test_a_block_with_a_wrong_answer_is_named(answer, message):
    register_block("answering")(lambda config, number: Answering(answer))
    model = ImpFlow(config(blocks=("answering", "residual"))).eval()
    for call in (model.log_prob, model.decode):
        with pytest.raises(ValueError, match=message):
            call(rows(dtype=torch.float32))


class OneWay(Transform):
    def forward(self, inputs, context=None):
        return inputs, inputs.new_zeros(len(inputs))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (None, "block 'returned' returned NoneType: .*transform"),
        (torch.nn.Identity(), "block 'returned' returned Identity: .*transform"),
        (OneWay(), "block 'returned' returned OneWay, .*inverse"),
    ],
    ids=["nothing", "no-transform", "no-inverse"],
)
def test_a_function_that_makes_no_block_is_named(block, message):
    register_block("returned")(lambda config, number: block)
    with pytest.raises(ModelError, match=message):
        ImpFlow(config(blocks=("returned", "residual")))


def test_a_block_is_registered_by_a_name():
    with pytest.raises(ModelError, match="register_block takes a name: @register_block"):
        register_block(lambda config, number: Answering(None))
