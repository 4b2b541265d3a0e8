"""A training of zuko's neural spline flow, as its users may write it, for some CPU seconds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping

import torch
import zuko

from impflow_zoo.data import TableSource
from impflow_zoo.fitting.portfolio import VALIDATED

__all__ = ["zuko_spline"]


def zuko_spline(
    splits: Mapping[str, TableSource],
    seconds: float,
    seed: int,
    dequantise: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The log-densities of the test rows under zuko's spline flow after some CPU seconds.

    Arguments:
        splits: the rows.
        seconds: of CPU time.
        seed: of the weights, the batches and the noise.
        dequantise: adds the noise of rounding to rows; new noise in each step, as `fit` does.
    """
    torch.manual_seed(seed)
    rows = {name: part.rows(range(len(part))) for name, part in splits.items()}
    mean, scale = rows["train"].mean(0), rows["train"].std(0)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return ((dequantise(x) - mean) / scale).float()

    train, validation, test = rows["train"], scaled(rows["validation"]), scaled(rows["test"])
    flow = zuko.flows.NSF(train.shape[1], transforms=5, hidden_features=(128, 128))
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-3)
    averaged = torch.optim.swa_utils.AveragedModel(
        flow, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )

    def step() -> None:
        batch = scaled(train[torch.randint(len(train), (256,))])
        optimizer.zero_grad()
        (-flow().log_prob(batch).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        averaged.update_parameters(flow)

    def value() -> float:
        with torch.no_grad():
            return float(averaged.module().log_prob(validation[:VALIDATED]).mean())

    start = time.process_time()
    while time.process_time() - start < seconds / 50:  # the time of a step
        step()
    n = 49 * int(averaged.n_averaged)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min((i + 1) / 100, 1) * (1 + math.cos(math.pi * min(i / n, 1))) / 2,
    )
    best, kept = -math.inf, averaged.module.state_dict()
    for i in range(n):
        step()
        schedule.step()
        if (i + 1) % math.ceil(n / 20) == 0 or i + 1 == n:
            found = value()
            if found > best:
                best, kept = found, copy.deepcopy(averaged.module.state_dict())
        if time.process_time() - start > 1.1 * seconds:
            break
    flow.load_state_dict(kept)
    with torch.no_grad():
        return flow().log_prob(test).double() - scale.log().sum()
