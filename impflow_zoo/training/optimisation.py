"""One step of maximum likelihood, by one process or by several that share the batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.seeds import Use, mix
from impflow_zoo.numerics.solver import NumericalWarning, Solution
from impflow_zoo.training.muon import Muon, takes
from impflow_zoo.training.recipe import TrainingSettings
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["Optimisation", "learning_rate"]


class Optimisation:
    """A model, its averaged copy and their optimizers.

    The random numbers of a step depend only on the recipe's seed, the number of the step and the
    process. Averages, summed gradients and the vectors of power iterations are the same in all
    processes.

    Arguments:
        model: the model to train.
        settings: settings of the training.
        processes: the processes that share each batch.
    """

    def __init__(self, model: FlowModel, settings: TrainingSettings, processes: Processes) -> None:
        self.model, self.settings, self.processes = model, settings, processes
        self.averaged = AveragedModel(model, multi_avg_fn=moving_average(settings.ema_decay))
        self.modules = {"model": model, "averaged": self.averaged}  # what a checkpoint holds
        self.optimizers = optimizers(model, settings)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Let layers that start from data (ActNorm) see the same rows in every process."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)  # the steps count them
            self.model.train().encode(*self.model.parted(x))

    def step(
        self, number: int, x: Tensor, size: int, weights: Tensor | None = None
    ) -> dict[str, float]:
        """Move the weights; a step that is not finite is not applied.

        Arguments:
            number: of the step, from 0.
            x: this process's part of the batch.
            size: rows of the whole batch.
            weights: of the rows of this part, one in the mean over all rows; None counts all alike.

        Returns:
            Figures of the whole batch: mean log-density, norm of its gradient (NaN unless both
            are finite and the step was applied), evaluations per root, part of roots not found.
        """
        rate = learning_rate(self.settings, number)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        torch.manual_seed(mix(self.settings.seed, Use.STEP, number, self.processes.rank))
        self.processes.copy_first(_buffers(self.model))
        figures = self._differentiate(x, size, weights)
        norm = math.nan
        if math.isfinite(figures["log_density"]):
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            self.processes.add_up(cast(Tensor, p.grad) for p in parameters)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm))
        if math.isfinite(norm):
            for optimizer in self.optimizers.values():
                optimizer.step()
            self.averaged.update_parameters(self.model)
        return {**figures, "gradient_norm": norm, "learning_rate": rate}

    def _differentiate(self, x: Tensor, size: int, weights: Tensor | None) -> dict[str, float]:
        """Gradients of this process's part of the mean, and the figures of all parts."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        report = Report()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)  # counted below
            try:
                value_of_rows = self.model.log_prob(*self.model.parted(x), report=report)
                if weights is not None:
                    value_of_rows = value_of_rows * weights.to(value_of_rows)
                log_density = value_of_rows.sum() / size
                (-log_density).backward()
                value = float(log_density.detach())
            except NUMERICAL_ERRORS:
                value = math.nan
        own = (value, *_counts(report.roots))
        value, roots, steps, unconverged = map(sum, zip(*self.processes.gather(own), strict=True))
        return {
            "log_density": value,
            "solver_steps": steps / max(1, roots),
            "unconverged": unconverged / max(1, roots),
        }


def _counts(roots: list[Solution]) -> list[int]:
    """Number of all roots of a step, evaluations, and roots not found; the host waits once."""
    counts = [
        torch.stack((torch.ones_like(r.steps), r.steps, (~r.converged).long())).sum(dim=1)
        for r in roots
    ]
    return torch.stack(counts).sum(dim=0).tolist() if counts else [0, 0, 0]


def optimizers(
    model: torch.nn.Module, settings: TrainingSettings
) -> dict[str, torch.optim.Optimizer]:
    """The optimizers by their names in a checkpoint."""
    rate, decay, muon = settings.learning_rate, settings.weight_decay, settings.optimizer == "muon"
    tables = {
        id(p)
        for module in model.modules()
        if getattr(module, "no_weights", False)  # its matrices hold shifts, scales or slopes
        for p in module.parameters(recurse=False)
    }
    weights = [p for p in model.parameters() if p.dim() > 1 and id(p) not in tables]
    matrices = [p for p in weights if muon and takes(p)]
    moved = {*map(id, matrices)}
    others = [p for p in model.parameters() if id(p) not in moved]
    groups = _groups(others, {*map(id, weights)}, decay)
    adamw = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True)
    found: dict[str, torch.optim.Optimizer] = {"optimizer": adamw}
    if matrices:
        found["muon"] = Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return found


def _groups(parameters: Sequence[Tensor], weights: Set[int], decay: float) -> list[dict[str, Any]]:
    """Parameters by their weight decay: biases, scales and shifts have none."""
    if not decay:
        return [{"params": parameters, "weight_decay": 0.0}]
    return [
        {"params": [p for p in parameters if id(p) in weights], "weight_decay": decay},
        {"params": [p for p in parameters if id(p) not in weights], "weight_decay": 0.0},
    ]


def _buffers(model: torch.nn.Module) -> Iterator[Tensor]:
    """What steps change beside the parameters: the vectors of power iterations."""
    parameters = dict(model.named_parameters())  # not before somebody iterates
    for key, value in model.state_dict().items():
        if key not in parameters and value.is_floating_point():
            yield value


def moving_average(decay: float) -> Callable[..., None]:
    """An exponential average that forgets its start: `min(decay, (1 + n) / (10 + n))` at update n.

    With a constant decay the random first weights would keep `decay**n` of the average.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warm-up, then a half cosine down to the final rate."""
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / settings.warmup_steps
    if settings.final_learning_rate is None:
        return rate
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    final = settings.final_learning_rate
    return final + (rate - final) * 0.5 * (1 + math.cos(math.pi * done))
