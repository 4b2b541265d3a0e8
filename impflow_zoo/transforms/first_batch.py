"""Layers that start from their first training batch."""

from __future__ import annotations

from nflows.transforms import Transform
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from impflow_zoo.numerics.compiled import uncompiled
from impflow_zoo.numerics.modes import is_transforming, seen

__all__ = ["FirstBatch"]


class FirstBatch(Transform):
    """A layer with a buffer `initialized`, which it sets with its first training batch.

    Once the host has seen it set, it does not look at the device again.
    """

    initialized: Tensor
    started: bool = False

    def start(self, inputs: Tensor) -> None:
        """Initialise the layer if it is in training mode and is not initialised.

        Arguments:
            inputs: the batch, with shape `[B, ...]`; one without rows sets nothing.

        Raises:
            RuntimeError: within transforms of `torch.func`, which could not write the parameters,
                and within torch's `DistributedDataParallel`, whose processes would start apart.
        """
        if self.training and not self.started:
            self._start(inputs)

    @uncompiled
    def _start(self, inputs: Tensor) -> None:
        done = bool(seen(self.initialized[None]).all())
        if is_transforming():
            if not done:
                raise RuntimeError(
                    f"{type(self).__name__} starts from a first batch, which a function that is "
                    "transformed cannot write: call the model on training rows before torch.func"
                )
            return
        if not done and _in_data_parallel():
            raise RuntimeError(
                f"{type(self).__name__} starts from a first batch, and each process has its own: "
                "call the model on training rows before DistributedDataParallel wraps it"
            )
        if not done and len(inputs):
            self.initialise(inputs)
            done = True
        self.started = done

    def initialise(self, inputs: Tensor) -> None:
        """Take parameters from a batch, and set `initialized`.

        Arguments:
            inputs: the batch, with shape `[B, ...]`.

        Raises:
            NotImplementedError: in a sub-class that does not define it. Those of this package raise
                `NotFiniteError` for a batch with NaN or infinity.
        """
        raise NotImplementedError

    def _load_from_state_dict(self, *arguments: object) -> None:
        super()._load_from_state_dict(*arguments)
        self.started = False


def _in_data_parallel() -> bool:
    """Whether `DistributedDataParallel` calls the model; torch has no public name for it."""
    return getattr(DistributedDataParallel, "_active_ddp_module", None) is not None
