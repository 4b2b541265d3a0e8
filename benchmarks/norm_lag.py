"""How far the norms that training divides by lie below the true ones, at a run's checkpoint.

    python benchmarks/norm_lag.py runs/NAME

Norms are found by iteration, from below. One that lags makes nets steeper than they may be, and
training losses too good; saved weights have converged norms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from impflow_zoo.lipschitz.norms import LipschitzLayer
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import CHECKPOINT


@torch.no_grad()
def lags(folder: Path) -> list[float]:
    """`1 - norm / true norm` of every layer, as the next training forward would have it."""
    model = FlowModel.from_pretrained(folder)
    tensors = load_file(folder / CHECKPOINT)
    model.load_state_dict(
        {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    )
    model.train()
    found = []
    for layer in model.modules():
        if isinstance(layer, LipschitzLayer) and "vector" in layer.state_dict():
            layer.advance()
            norm = float(layer.attained())
            layer.double().settle()
            found.append(1 - norm / float(layer.attained()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of training runs")
    for folder in parser.parse_args().runs:
        found = lags(folder)
        if not found:
            print(f"{folder.name}: no layer whose norm is found by iteration")
            continue
        mean = sum(found) / len(found)
        print(f"{folder.name}: {len(found)} layers, at most {max(found):.1e}, mean {mean:.1e}")


if __name__ == "__main__":
    main()
