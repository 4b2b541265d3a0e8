"""What a GPU would feel of a task, counted on a CPU: operators that launch a kernel, and waits.

    python benchmarks/launches.py [--cases 2d-b200 d6 image]

A wait is a number that the host asks for. The waits of training hold one for every parameter that
torch's Adam updates: it counts its steps on the CPU, where nobody waits. Few rows are counted, so
that nothing is cut into parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from cases import CASES, make_side
from speed import sides_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero"}
# Metadata, memory without contents, and numbers that stay on the host.
FREE = {
    *("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "resize_"),
    *("detach", "lift_fresh", "scalar_tensor", "promote_types", "_unsafe_view"),
    *("_record_function_enter_new", "_record_function_exit", "_local_scalar_dense"),
}


class Counting(TorchDispatchMode):
    """Counts within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.waits = 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        results = [result.alias_info for result in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in results)
        self.launches += not is_view and name not in FREE
        self.waits += name in WAITS
        return function(*arguments, **(options or {}))


@contextmanager
def counting() -> Iterator[Counting]:
    """Launches and waits within the block, those for whole tensors included."""
    counts, tolist = Counting(), Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        counts.waits += 1
        return tolist(tensor)

    with mock.patch.object(Tensor, "tolist", counted), counts:
        yield counts


def count(run: Callable[[], Any]) -> tuple[int, int]:
    """Launches and waits of a call, once it has been called before."""
    run()
    with counting() as counts:
        run()
    return counts.launches, counts.waits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["2d-b200", "d6", "image"], choices=CASES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in options.cases:
        for name in sides_of(case):
            side = make_side(name, CASES[case])
            for task in CASES[case].tasks:
                side.prepare(task)
                launches, waits = count(lambda: side.run(task))  # noqa: B023 - called at once
                print(f"{case:8} {name:9} {task:9} {launches:6} / {waits:3}", flush=True)


if __name__ == "__main__":
    main()
