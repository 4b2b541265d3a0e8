"""Every rule of a step, of validations, and where a run starts."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import pytest
import torch
import yaml
from PIL import Image
from support.runs import log, train, trainer
from support.small_models import config, make, write_recipe
from torch import Tensor

from impflow_zoo import (
    ImpFlow,
    NumericalWarning,
    Solver,
    SolverError,
    create_model,
)
from impflow_zoo.data import TOYS, TableSource, open_source, open_toy
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.evaluation.scoring import Score, score
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.registry import locate
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.training import Trainer
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.training.optimisation import Optimisation, learning_rate
from impflow_zoo.training.recipe import TrainingSettings, read_recipe
from impflow_zoo.training.run import open_splits
from impflow_zoo.transforms.base import NotFiniteError

# -------------------------------------------------------------------------------- single steps


def parameters(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def constant(run: Trainer, value: float) -> Callable[[Tensor], Tensor]:
    """A log-density whose gradient is `value` in every parameter."""

    def log_prob(x: Tensor, *_: object, **__: object) -> Tensor:
        return value * sum(p.sum() for p in run.model.parameters()).expand(len(x))

    return log_prob


def test_weight_decay_shrinks_weights_whatever_the_gradient(tmp_path, monkeypatch):
    run = trainer(tmp_path, weight_decay=0.5, learning_rate=0.1)
    monkeypatch.setattr(run.model, "log_prob", constant(run, 0.0))
    before = parameters(run.model)
    for _ in range(3):
        run.step()
    for name, p in run.model.named_parameters():
        left = (1 - 0.1 * 0.5) ** 3 if p.dim() > 1 else 1.0  # biases and scales do not decay
        torch.testing.assert_close(p.detach(), before[name] * left, msg=name)


def test_muon_turns_matrices_and_adam_moves_the_rest(tmp_path):
    run = trainer(tmp_path, optimizer="muon", learning_rate=0.01)
    before = parameters(run.model)
    run.step()
    for name, p in run.model.named_parameters():
        step = (p.detach() - before[name]) / 0.01
        if p.dim() == 2:  # all singular values of a step are about the same
            values = torch.linalg.svdvals(step) / (0.2 * max(p.shape) ** 0.5)
            assert 0.6 < values.min() <= values.max() < 1.3, name
        elif p.grad is not None and (p.grad != 0).all():
            torch.testing.assert_close(step, -p.grad.sign(), rtol=1e-2, atol=1e-2, msg=name)


def test_gradients_are_clipped_and_their_true_norm_is_logged(tmp_path, monkeypatch):
    run = trainer(tmp_path, clip_norm=0.5)
    monkeypatch.setattr(run.model, "log_prob", constant(run, 3.0))
    size = sum(p.numel() for p in run.model.parameters())
    assert run.step()["gradient_norm"] == pytest.approx(3.0 * size**0.5, rel=1e-5)
    applied = torch.cat([p.grad.flatten() for p in run.model.parameters()])
    assert float(applied.norm()) == pytest.approx(0.5, rel=1e-4)


def test_the_average_follows_the_weights_and_forgets_the_first(tmp_path):
    run = trainer(tmp_path, ema_decay=0.25, learning_rate=0.05)
    run.step()
    expected = parameters(run.model)  # the first step has no past to average
    for decay in (2 / 11, 3 / 12, 0.25, 0.25):
        run.step()
        now = parameters(run.model)
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    for name, p in run.averaged.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], msg=name)
    assert any(not torch.equal(now[k], v) for k, v in expected.items())


def test_the_learning_rate_warms_up_and_falls_by_a_cosine():
    settings = TrainingSettings(
        steps=110, learning_rate=2.0, final_learning_rate=1.0, warmup_steps=10
    )
    rates = [learning_rate(settings, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.5)
    assert rates[-1] == pytest.approx(1.0, abs=1e-3)
    assert sorted(rates[10:], reverse=True) == rates[10:]
    flat = TrainingSettings(learning_rate=2.0, final_learning_rate=None, warmup_steps=0)
    assert [learning_rate(flat, step) for step in (0, 5000)] == [2.0, 2.0]


def fail(error: Exception) -> Callable[[Tensor], Tensor]:
    def log_prob(x: Tensor, *_: object, **__: object) -> Tensor:
        raise error

    return log_prob


UNUSABLE = {
    "NaN": lambda x, *_, **__: torch.full((len(x),), math.nan, requires_grad=True),
    "infinity": lambda x, *_, **__: torch.full((len(x),), math.inf, requires_grad=True),
    "no root": fail(SolverError("no root")),
    "no contraction": fail(NoContractionError("det <= 0")),
    "overflow": fail(NotFiniteError("inputs with NaN")),
}


@pytest.mark.parametrize("log_prob", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_step_is_counted_and_not_applied(log_prob, tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=2, weight_decay=0.1)
    run.step()
    before, average = parameters(run.model), parameters(run.averaged)
    with monkeypatch.context() as patch:
        patch.setattr(run.model, "log_prob", log_prob)
        patch.setattr(run, "validate", lambda: None)
        state = run.run()
    assert state["skipped"] == 2
    for now, then in ((run.model, before), (run.averaged, average)):
        assert all(torch.equal(p, then[name]) for name, p in now.named_parameters())
    assert log(tmp_path)[-1]["log_density"] is None
    assert log(tmp_path)[-1]["skipped"] == 2


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    before = parameters(run.model)
    monkeypatch.setattr(
        run.model, "log_prob", lambda x, *_, **__: (constant(run, 1.0)(x) * 0).abs().sqrt()
    )  # the value is 0, its derivative is not finite
    run.step()
    assert run.state["skipped"] == 1
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())


def test_roots_out_of_reach_are_counted_and_training_goes_on(tmp_path):
    slow = Solver("fixed_point", max_steps=2)
    run = trainer(tmp_path, make(blocks=1, solver=slow, dtype=torch.float32))
    figures = run.step()  # warnings are errors here: they have to stay within
    assert 0 < figures["unconverged"] <= 1
    assert figures["solver_steps"] == 2
    assert run.state["skipped"] == 0


@pytest.mark.parametrize(("size", "rows"), [(4, 64), (48, 96), (100, 100)])
def test_layers_start_from_enough_rows_however_small_the_batches(size, rows, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Optimisation, "start", lambda self, x: seen.append(x))
    run = trainer(tmp_path, batch_size=size)
    assert [len(x) for x in seen] == [rows]
    assert torch.equal(seen[0][:size], run.batch(0, None))


def test_every_pass_sees_every_row_once(tmp_path):
    run = trainer(tmp_path, batch_size=25)
    passes = [torch.cat([run.batch(4 * k + i, None) for i in range(4)]) for k in range(2)]
    everything = run.batches.rows.rows(range(100)).float()
    for seen in passes:
        assert torch.equal(seen.sort(dim=0).values, everything.sort(dim=0).values)
    assert not torch.equal(*passes)


# --------------------------------------------------------------------------------- validation


@pytest.fixture
def scripted(monkeypatch) -> Callable[[list[float]], list[dict[str, Tensor]]]:
    """Make validations find the values given, one after the other; the weights they saw."""

    def script(values: list[float]) -> list[dict[str, Tensor]]:
        left, seen = iter(values), []

        def found(model: torch.nn.Module, *_: object, **__: object) -> Score:
            seen.append(parameters(model))
            return Score({"log_prob": torch.tensor([next(left)])})

        monkeypatch.setattr("impflow_zoo.training.trainer.score", found)
        return seen

    return script


def test_the_best_weights_are_kept(tmp_path, scripted):
    seen = scripted([1.0, 3.0, math.nan, 2.0])
    run = trainer(tmp_path, steps=4, validate_every=1)
    state = run.run()
    assert (state["best"], state["best_step"], state["waited"]) == (3.0, 2, 2)
    kept = ImpFlow.from_pretrained(tmp_path)
    assert all(torch.equal(p, seen[1][name]) for name, p in kept.named_parameters())
    assert not all(torch.equal(p, seen[3][name]) for name, p in kept.named_parameters())


@pytest.mark.parametrize("error", [SolverError, NoContractionError, NotFiniteError])
def test_a_validation_that_fails_is_noted_and_training_goes_on(error, tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=3, validate_every=1)
    good, calls = score, itertools.count()

    def bad_at_first(*arguments, **options):
        if next(calls) == 0:
            raise error("no root")
        return good(*arguments, **options)

    monkeypatch.setattr("impflow_zoo.training.trainer.score", bad_at_first)
    with pytest.warns(NumericalWarning, match="validation failed: no root"):
        state = run.run()
    assert (state["step"], state["best"] is None) == (3, False)
    values = [line["validation"] for line in log(tmp_path) if "validation" in line]
    assert values[0] is None
    assert len(values) == 3
    assert [value for *_, value in TrainingFacts.read(tmp_path).curve] == [
        round(value, 5) for value in values[1:]
    ]


def test_weights_that_cannot_decode_are_not_kept(tmp_path, scripted, monkeypatch):
    scripted([2.0, 1.0])
    run = trainer(tmp_path, steps=2, validate_every=1)
    good, calls = ImpFlow.save_pretrained, itertools.count()

    def bad_at_first(*arguments, **options):
        if next(calls) == 0:
            raise SolverError("no root")
        return good(*arguments, **options)

    monkeypatch.setattr(ImpFlow, "save_pretrained", bad_at_first)
    with pytest.warns(NumericalWarning, match="step 1 are not saved, .*no root"):
        state = run.run()
    assert (state["step"], state["best"], state["best_step"]) == (2, 1.0, 2)


def test_an_error_of_one_process_reaches_the_others(monkeypatch):
    """They would wait for its share for ever."""
    model, rows = make(blocks=1), open_toy("moons", 10)

    class Two(Processes):
        def gather(self, own):
            return [SolverError("elsewhere"), own]

    with pytest.raises(SolverError, match="elsewhere"):
        score(model, rows, seed=0, processes=Two(rank=1, count=2))


def test_patience_ends_a_run(tmp_path, scripted):
    scripted([1.0, 3.0, 2.0, 2.5, 9.0])
    run = trainer(tmp_path, steps=50, validate_every=2, patience=2)
    assert run.run()["step"] == 8
    assert json.loads(json.dumps(run.state))["best"] == 3.0


# ------------------------------------------------------------------------ where a run starts


def test_a_run_can_start_from_the_weights_of_a_model(tmp_path):
    start = make(blocks=1)
    start.save_pretrained(tmp_path / "start")
    run = trainer(tmp_path / "run", ImpFlow(start.config))
    run.prepare(ModelFolder.open(tmp_path / "start"))
    for module in (run.model, run.averaged):
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, start.state_dict()[key].to(tensor.dtype)), key
            assert tensor.dtype != torch.float64
    assert math.isfinite(run.step()["log_density"])


def test_a_run_can_start_from_a_model_of_the_zoo(tmp_path):
    start = create_model("impflow-power-plant")
    run = Trainer(
        ImpFlow(start.config),
        TrainingSettings(),
        *(TableSource("rows", torch.randn(9, 5, dtype=torch.float64), list("abcde")),) * 2,
        tmp_path,
        progress=False,
    )
    run.prepare(ModelFolder.open(locate("impflow-power-plant")))
    own = dict(run.model.named_parameters())
    assert all(torch.equal(own[name], p) for name, p in start.named_parameters())


def test_columns_of_a_long_sorted_table_are_standardised_by_all_parts_of_it(tmp_path):
    year = torch.repeat_interleave(torch.tensor([2019.0, 2020.0]), 100_500)
    values = torch.stack((year, torch.randn(len(year))), dim=1).double()
    rows = TableSource("rows", values, ["year", "size"])
    model = ImpFlow(config(columns=("year", "size"), rounding={"year": 1.0}))
    settings = TrainingSettings(batch_size=32)
    Trainer(model, settings, rows, rows.part(range(9)), tmp_path, progress=False).prepare()
    spread = model.preprocessing.spread(model.transform)
    torch.testing.assert_close(spread, torch.tensor([0.5, 1.0]), rtol=0.02, atol=0)


def test_validation_rows_come_off_the_end(tmp_path):
    recipe = write_recipe(tmp_path, data={"validation_rows": 3, "validation": None})
    rows, held_out = open_splits(read_recipe(recipe), None)
    everything = open_source("toy:moons", "train").rows(range(10_000))
    assert torch.equal(rows.rows(range(len(rows))), everything[:-3])
    assert torch.equal(held_out.rows(range(len(held_out))), everything[-3:])


def test_held_out_pictures_are_of_all_labels(tmp_path):
    """Folders of labels are read one after the other: the last pictures would be of one label."""
    for label in range(2):
        (tmp_path / "photos" / f"label-{label}").mkdir(parents=True)
        for i in range(20):
            picture = Image.new("RGB", (8, 8), (10 * label, i, 0))
            picture.save(tmp_path / "photos" / f"label-{label}" / f"{i}.png")
    config = {
        "kind": "image",
        "image_size": [8, 8],
        "context_columns": ["label"],
        "class_names": ["label-0", "label-1"],
    }
    data = {"validation_rows": 10, "dataset": str(tmp_path / "photos"), "validation": None}
    recipe = tmp_path / "recipe.yaml"
    text = {"model": "ResFlow", "config": config, "data": data, "training": {"steps": 1}}
    recipe.write_text(yaml.safe_dump(text))
    train, held_out = open_splits(read_recipe(recipe), None)
    found = [part.rows(range(len(part)))[:, -1, 0, 0].tolist() for part in (train, held_out)]
    assert [len(labels) for labels in found] == [30, 10]
    assert all(set(labels) == {0, 1} for labels in found)
    _, again = open_splits(read_recipe(recipe), None)
    assert torch.equal(held_out.rows(range(10)), again.rows(range(10)))


def test_a_run_learns(tmp_path):
    """In a hundred steps most of the way from the best Gaussian to the truth, not beyond."""
    settings = {"steps": 100, "batch_size": 200, "learning_rate": 1e-2, "ema_decay": 0.9}
    recipe = write_recipe(
        tmp_path,
        model="ResFlow",
        config={"blocks": 4, "hidden_features": [32, 32]},
        training={**settings, "validation_limit": 2000, "validate_every": 100},
    )
    best = train(recipe, tmp_path / "run")["best"]
    covariance = open_toy("moons").rows(range(10_000)).T.cov()
    gaussian = -0.5 * float(torch.logdet(2 * math.pi * math.e * covariance))
    truth = -TOYS["moons"].entropy
    assert gaussian + 0.6 * (truth - gaussian) < best < truth + 0.05
