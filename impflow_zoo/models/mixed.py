"""The kinds of blocks that recipes, config files and classes of models name, in one registry.

Another package adds a kind with `register_block`. If it also declares an entry point of the group
`impflow_zoo.blocks`, with the same name, the command line finds it as well. A class of models says
in `block_kinds` which kinds are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from nflows.transforms import Transform
from torch import nn

from impflow_zoo.models.classes import redefined, registered
from impflow_zoo.models.fields import MOST_BLOCKS, ConfigError, ModelError, require
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.blocks import ImpFlowTransform, MonotoneTransform, ResFlowTransform
from impflow_zoo.transforms.radial import RadialTransform

__all__ = [
    "BLOCKS",
    "block_kind",
    "made",
    "off_meta",
    "register_block",
    "require_blocks",
    "require_transform",
]

BlockMaker = Callable[[Any, int], Transform]
# A class takes nets that the builder of a model makes; anything else makes the whole block.
BlockKind = type[ResidualBlock] | BlockMaker

BLOCKS: dict[str, BlockKind] = {
    "implicit": ImpFlowTransform,
    "monotone": MonotoneTransform,
    "residual": ResFlowTransform,
}

B = TypeVar("B", bound=BlockMaker)


def register_block(name: str) -> Callable[[B], B]:
    """Let `blocks` of a recipe name a kind of block; a decorator.

    The same definition may run again, as in a notebook. The new function then takes the name.

    Arguments:
        name: the name in recipes.

    Returns:
        A decorator of a function `(config, number) -> transform`. It takes the config of the
        model, a `TabularConfig`, and the position of the block, from 0, and returns an nflows
        transform of rows, `[B, D]`, whose contexts have the shape `[B, config.embedded_features]`.

    Raises:
        ModelError: if there is no name, or it belongs to another block.
    """
    if not isinstance(name, str):
        raise ModelError('register_block takes a name: @register_block("affine"), for example')

    def register(make: B) -> B:
        if not redefined(BLOCKS.get(name, make), make):
            raise ModelError(f"a block named {name!r} is already registered")
        BLOCKS[name] = make
        return make

    return register


def block_kind(name: str) -> BlockKind:
    """What makes blocks of a name, or a `ConfigError` that lists the names."""
    return registered("block", name, BLOCKS)


def require_blocks(blocks: int | Sequence[str], *, angles: bool = False) -> None:
    """Refuse a number of blocks, or names of them, that no model is made of.

    Arguments:
        blocks: the number or the names.
        angles: whether columns are angles, which our own blocks alone leave angles.
    """
    number = blocks if isinstance(blocks, int) else len(blocks)
    require(number >= 1, "blocks", blocks, "at least 1")
    require(number <= MOST_BLOCKS, "blocks", blocks, f"at most {MOST_BLOCKS:,}")
    for name in () if isinstance(blocks, int) else blocks:
        if not isinstance(block_kind(name), type) and angles:
            own = [known for known, kind in BLOCKS.items() if isinstance(kind, type)]
            raise ConfigError(f"with angles blocks are {', '.join(own)}, not {name!r}")


def require_transform(found: object, maker: str) -> Transform:
    """What a function of a user returned, if it is a transform with an inverse.

    Arguments:
        found: what was returned.
        maker: the function, for messages.

    Raises:
        ModelError: if it is none.
    """
    name = type(found).__name__
    if not isinstance(found, Transform):
        raise ModelError(f"{maker} returned {name}: an nflows transform is needed")
    if type(found).inverse is Transform.inverse:
        raise ModelError(f"{maker} returned {name}, which has no method inverse")
    return found


def made(
    kind: type[ResidualBlock], net: Callable[[], nn.Module], config: Any, number: int
) -> ResidualBlock:
    """A block with new nets; its number among such blocks tells its probes from those of others."""
    make: Callable[..., ResidualBlock] = kind
    nets = [net() for _ in dict.fromkeys(step.net for step in kind.steps)]
    logdet = config.logdet.seeded(config.seed, number)
    return make(*nets, logdet=logdet, solver=config.solver)


@register_block("radial")
def _radial(config: Any, number: int) -> Transform:
    return RadialTransform(config.features)


def off_meta() -> torch.device:
    """Where to make layers of nflows, which look at their masks: not on the meta device."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device
