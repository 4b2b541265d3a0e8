"""Image models: multi-scale transforms, bits per dimension, samples, scores, refusals."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nflows.flows import Flow
from nflows.transforms import CompositeTransform, Transform
from support.blocks import dense_logdet
from support.dealt import crossed
from support.image_models import MODELS, draw, make, raw
from support.image_sets import image_set, pictures
from torch import Tensor, nn

from impflow_zoo import ImageConfig, ImpFlow, LipschitzConvNet, ResFlow, evaluate
from impflow_zoo.data import DataError, ImageFormat, ImageSource
from impflow_zoo.models.config import parse, to_json
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.store import golden_batch
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.solver import Solver
from impflow_zoo.training import Trainer
from impflow_zoo.training.recipe import TrainingSettings

KINDS = {"ImpFlow": ImpFlow, "ResFlow": ResFlow}


@pytest.mark.parametrize(("name", "kind"), crossed({name: name for name in MODELS}, KINDS))
def test_inverse_and_logdet(name: str, kind: type[FlowModel]) -> None:
    model = make(name, kind, logdet=LogDet("exact"))
    x = draw(model)
    z, logdet = model.transform(x)
    assert z.shape == (3, math.prod(model.config.shape))
    torch.testing.assert_close(logdet, dense_logdet(model.encode, x), rtol=1e-8, atol=1e-8)
    back, inverse_logdet = model.transform.inverse(z)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(inverse_logdet, -logdet, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_values_without_logdets(name: str) -> None:
    model = make(name)
    x = draw(model)
    z = model.transform(x)[0]
    torch.testing.assert_close(model.encode(x), z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        model.decode(z), model.transform.inverse(z)[0], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("starts", [True, False])
def test_all_nets_but_the_first_start_with_an_activation_if_the_config_says_so(
    starts: bool,
) -> None:
    model = make("plain", ResFlow, preactivation=starts)
    nets = [m for m in model.modules() if isinstance(m, LipschitzConvNet)]
    assert [net.first is not None for net in nets] == [False, starts]


def test_what_leaves_early_is_the_second_half_of_the_channels() -> None:
    model = make("factor-out")
    logit, multiscale = model.transform._transforms
    x = draw(model)
    first_scale = CompositeTransform(multiscale._transforms[0]._transforms[:-1])
    squeezed = first_scale(logit(x)[0])[0]
    z = model.encode(x)
    torch.testing.assert_close(z[:, :24], squeezed[:, 6:].flatten(1))


class Uniform(Transform):
    """The distribution function of the uniform density, then the quantiles of the normal."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = torch.special.ndtri(inputs.flatten(1))
        return z, (z.square() / 2 + math.log(2 * math.pi) / 2).sum(dim=1)


@pytest.mark.parametrize("bits", [8, 5])
def test_uniform_density_takes_all_bits(bits: int) -> None:
    model = make(bits=bits)
    model.flow = Flow(Uniform(), model.flow._distribution)
    torch.testing.assert_close(
        model.bits_per_dim(raw(model)), torch.full((3,), float(bits), dtype=torch.float64)
    )


@pytest.mark.parametrize("bits", [8, 5])
def test_closed_form_bits_per_dim(bits: int) -> None:
    """Without blocks a model is the logit alone, whose density can be written down."""
    model = make(bits=bits)
    model.flow._transform = CompositeTransform([model.transform._transforms[0], Flat()])
    images = raw(model, 2000)
    x = (images.double() // 2 ** (8 - bits) + 0.5) / 2**bits
    s = 0.05 + 0.9 * x
    z = torch.logit(s)
    density = -(z.square() + math.log(2 * math.pi)) / 2 + math.log(0.9) - (s * (1 - s)).log()
    expected = -density.flatten(1).mean(dim=1) / math.log(2) + bits
    found = model.bits_per_dim(images)
    assert float((found - expected).mean().abs()) < 1e-2


class Flat(Uniform):
    """The identity on flattened maps."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return inputs.flatten(1), inputs.new_zeros(len(inputs))


def test_bits_per_dim_depends_on_its_image_alone() -> None:
    model = make(size=8)
    images = raw(model, 4)
    together = model.bits_per_dim(images)
    alone = torch.cat([model.bits_per_dim(images[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["plain", "five-bit-grey"])
def test_samples_are_images_that_can_be_scored(name: str) -> None:
    model = make(name)
    images = model.sample(5, generator=torch.Generator().manual_seed(0))
    assert images.dtype == torch.uint8
    assert images.shape == (5, *model.config.shape)
    assert bool(model.bits_per_dim(images).isfinite().all())
    if model.config.bits == 5:
        assert bool((images % 8 == 0).all())


def test_dequantised_images_come_back_to_the_bit() -> None:
    model = make("five-bit-grey")
    images = raw(model, 6)
    x = model.dequantise(images, torch.rand(images.shape, dtype=torch.float64))
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert torch.equal(model.to_data(model.decode(model.encode(x))), images // 8 * 8)


@pytest.mark.parametrize("name", MODELS)
def test_config_travels_as_json(name: str) -> None:
    config = make(name).config
    assert parse(to_json(config)) == config


@pytest.mark.parametrize(("size", "rows"), [(8, 8), (64, 2)])
def test_the_golden_batch_of_large_images_has_fewer_rows(size: int, rows: int) -> None:
    config = ImageConfig(channels=1, image_size=(size, size), blocks=(1,), width=2, kernels=(1,))
    assert golden_batch(ResFlow(config).eval())["inputs"].shape == (rows, 1, size, size)


def test_save_and_load(tmp_path: Path) -> None:
    model = make(size=8).float()
    model.save_pretrained(tmp_path)
    loaded = FlowModel.from_pretrained(tmp_path, verify=True)
    images = raw(model)
    assert torch.equal(loaded.bits_per_dim(images), model.bits_per_dim(images))


BAD = {
    "channels": ({"channels": 4}, "1 or 3"),
    "size": ({"image_size": (6,)}, "height and width"),
    "odd": ({"image_size": (6, 6), "blocks": (1, 1, 1)}, "multiples of 4"),
    "bits": ({"bits": 9}, "between 1 and 8"),
    "alpha": ({"alpha": 0.0}, "between 0 and 0.5"),
    "blocks": ({"blocks": ()}, "one number for each scale"),
    "even-kernel": ({"kernels": (3, 2, 3)}, "odd sizes"),
    "dequantisation": ({"dequantisation": "learned"}, "choose uniform, variational"),
    "net": ({"net": "transformer"}, "choose conv, dense"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(name: str) -> None:
    settings, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        ImageConfig(**settings)


def test_bad_images_are_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match=r"out of \[0, 1\] in 1 of 3 .*row 1"):
        model.log_prob(draw(model) + torch.tensor([0.0, 1.0, 0.0])[:, None, None, None])
    with pytest.raises(ValueError, match="for pixels use bits_per_dim, or dequantise"):
        model.log_prob(raw(model))
    with pytest.raises(ValueError, match="inputs of type torch.uint8"):
        model.transform(raw(model))
    with pytest.raises(ValueError, match=r"out of \[0, 1\] in 3 of 3"):
        model.transform(255 * draw(model))
    with pytest.raises(ValueError, match="uint8 is needed"):
        model.bits_per_dim(draw(model))
    with pytest.raises(ValueError, match="this model takes"):
        model.bits_per_dim(raw(model)[:, :2])


def test_both_training_gradients_are_unbiased() -> None:
    """Means over many draws of either estimator against the gradient of the exact log-det."""
    check_unbiased(make(size=2, kind=ResFlow, blocks=(1,)), draws=60)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "lipschitz"), [(ResFlow, 0.6), (ImpFlow, 0.95)])
def test_both_training_gradients_are_unbiased_on_8x8(
    kind: type[FlowModel], lipschitz: float
) -> None:
    check_unbiased(make(size=8, kind=kind, lipschitz=lipschitz), draws=300)


def check_unbiased(model: FlowModel, draws: int) -> None:
    x = draw(model, 4)
    parameters = list(model.parameters())

    def gradient(logdet: LogDet) -> Tensor:
        for block in model.blocks():
            block.logdet = logdet
        loss = model.log_prob(x).mean()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return torch.cat([g.flatten() for g in grads if g is not None])

    exact = gradient(LogDet("exact"))
    for series in ("solve", "roulette"):
        found = torch.stack([gradient(LogDet("unbiased", series)) for _ in range(draws)])
        mean, error = found.mean(dim=0), found.std(dim=0) / draws**0.5
        scores = ((mean - exact) / error.clamp(min=1e-9)).abs()
        assert float((scores > 3).double().mean()) < 0.02, series
        assert float(scores.square().mean()) < 1.5, series
        assert float((mean - exact).norm()) < 0.1 * float(exact.norm()), series
        # All entries together would show a gradient that is a little too short or too long.
        along = found @ exact / exact.square().sum()
        assert float((along.mean() - 1).abs()) < 4 * float(along.std()) / draws**0.5, series
        assert float(along.std()) / draws**0.5 < 0.02, series


def test_evaluate(tmp_path: Path) -> None:
    model = make(size=8).float()
    dataset = image_set(tmp_path, pictures(7))
    result = evaluate(model, dataset, batch_size=3)
    assert (result.metric, result.n) == ("bits_per_dim", 7)
    assert result.value == pytest.approx(evaluate(model, dataset).value, abs=1e-5)
    assert 0 < result.estimator_stderr < 0.1
    assert result.round_trip < 1e-3
    assert evaluate(model, dataset, seed=1).value != result.value


@pytest.mark.parametrize("bits", [5, 8])
def test_images_come_back_to_the_bit(bits: int) -> None:
    model = make(size=8, bits=bits)
    images = raw(model)
    middle = torch.full(images.shape, 0.5, dtype=torch.float64)
    shown = model.to_data(model.dequantise(images, middle))
    assert shown.unique().numel() > 10
    assert torch.equal(shown, images // 2 ** (8 - bits) * 2 ** (8 - bits))
    back = model.decode(model.encode(model.dequantise(images, middle)))
    assert torch.equal(model.to_data(back), shown)


def test_noise_of_one_image_is_not_that_of_another(tmp_path: Path) -> None:
    model = make(size=8)
    dataset = image_set(tmp_path, [np.full((8, 8, 3), 7, dtype=np.uint8)] * 2)
    assert evaluate(model, dataset, limit=1).value != evaluate(model, dataset).value


def test_copies_share_nothing() -> None:
    model = make()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert float(model.encode(draw(model)).detach().abs().max()) > 0


@pytest.mark.parametrize("name", ["plain", "dense"])
def test_memory_does_not_grow_with_terms_or_steps(name: str) -> None:
    """What a training step keeps for its backward pass, at ever tighter tolerances."""
    model = make(name, size=8)
    model.train()
    x = draw(model)

    def kept(rtol: float) -> tuple[int, int]:
        torch.manual_seed(0)
        for block in model.blocks():
            block.logdet = LogDet("unbiased", rtol=rtol)
            block.solver = Solver(rtol=rtol)
        sizes: list[int] = []
        report = Report()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            model.log_prob(x, report=report)
        return sum(sizes), sum(estimate.products for estimate in report.logdets)

    (loose, few), (tight, many) = kept(1e-2), kept(1e-10)
    assert many > 3 * few
    assert tight == loose


def test_training_flips_images_and_keeps_them_whole(tmp_path: Path) -> None:
    left = np.zeros((8, 8, 3), dtype=np.uint8)
    left[:, :2] = 255
    model = make(size=8)
    source = ImageSource.open(image_set(tmp_path, [left] * 16), None, ImageFormat(3, (8, 8)))
    settings = TrainingSettings(batch_size=16, flip=True)
    trainer = Trainer(model, settings, source, source, tmp_path / "run", progress=False)
    images = model.to_data(trainer.batch(0, None))
    pixels = torch.from_numpy(left).permute(2, 0, 1)
    unflipped = sum(bool(torch.equal(image, pixels)) for image in images)
    flipped = sum(bool(torch.equal(image, pixels.flip(-1))) for image in images)
    assert 0 < unflipped < 16
    assert unflipped + flipped == 16
    assert torch.equal(source.rows([0])[0], pixels)


def test_a_toy_is_no_image() -> None:
    with pytest.raises(DataError, match="toy:moons is a table"):
        evaluate(make().float(), "toy:moons")
