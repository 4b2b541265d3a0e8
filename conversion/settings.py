"""From the settings of the public scripts to a config of the zoo."""

from __future__ import annotations

import ast
import dataclasses
import reprlib
import typing
from dataclasses import dataclass
from typing import Any

from conversion.checkpoint import Checkpoint
from conversion.pickles import ConversionError
from impflow_zoo.models.fields import ConfigError, parse_dataclass, require
from impflow_zoo.models.published import PublishedImageConfig, PublishedTabularConfig

__all__ = ["ACTIVATIONS", "Settings", "config_of", "read_settings"]

_SAME_NAMES = ("sin", "elu", "softplus", "relu", "tanh")
ACTIVATIONS = {"swish": "lipswish", **dict(zip(_SAME_NAMES, _SAME_NAMES, strict=True))}
# Settings that change what a model computes in ways that a config has no word for.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "arch": ("implicit", "iresnet"),
    "block": ("resblock",),
    "task": ("density",),
    "batchnorm": (False,),
    "fc": (False,),
    "fc_actnorm": (False,),
    "quadratic": (False,),
    "padding": (0,),
    "add_noise": (True,),
    "logit_transform": (True,),
}


@dataclass(frozen=True)
class Settings:
    """What the public scripts were called with, as far as a model depends on it.

    Arguments have the scripts' names. What a script does not have is as the other one has it.
    """

    act: str
    coeff: float
    vnorms: str
    nblocks: str
    data: str = ""
    dims: str = ""
    imagesize: int = 0
    kernels: str = ""
    idim: int = 0
    fc_idim: int = 0
    nbits: int = 8
    learn_p: bool = False
    actnorm: bool = False
    preact: bool = False
    fc_end: bool = False
    factor_out: bool = False
    squeeze_first: bool = False
    first_resblock: bool = True

    def __post_init__(self) -> None:
        require(self.act in ACTIVATIONS, "act", self.act, " or ".join(ACTIVATIONS))
        require(0 < self.coeff < 1, "coeff", self.coeff, "a number between 0 and 1")
        first = self.first_resblock or not self.actnorm
        require(first, "first_resblock", self.first_resblock, "True with actnorm=True")

    def stated(self) -> str:
        """The settings that are not as usual, in words."""
        return ", ".join(
            f"{field.name} {getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )


def read_settings(args: dict[str, Any], overrides: dict[str, str]) -> Settings:
    """The settings of a checkpoint, with those that the user overrides.

    Arguments:
        args: what the script was called with.
        overrides: settings that are to hold instead, as they are written on the command line.

    Raises:
        ConversionError: if one is unknown, missing, of another type, or not represented here.
    """
    kinds = typing.get_type_hints(Settings)
    unknown = sorted(overrides.keys() - kinds)
    if unknown:
        raise ConversionError(f"unknown setting {unknown[0]!r}: choose {', '.join(kinds)}")
    for name, possible in _PLAIN.items():
        if name in args and args[name] not in possible:
            raise ConversionError(f"not represented here: {name}={reprlib.repr(args[name])}")
    found = {name: value for name, value in args.items() if name in kinds and value is not None}
    if type(found.get("nblocks")) is int:
        found["nblocks"] = str(found["nblocks"])
    for name, value in overrides.items():
        found[name] = value if kinds[name] is str else _literal(value)
    try:
        settings: Settings = parse_dataclass(Settings, found, "")
    except ConfigError as error:
        raise ConversionError(f"not represented here: {error}, see --set") from None
    return settings


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def config_of(
    checkpoint: Checkpoint, settings: Settings
) -> PublishedTabularConfig | PublishedImageConfig:
    """The config of a checkpoint's model.

    Raises:
        ConversionError: if a setting cannot be represented.
    """
    try:
        if checkpoint.images:
            return _image(checkpoint, settings)
        return _vector(checkpoint, settings)
    except ConfigError as error:
        raise ConversionError(f"not represented here: {error}, see --set") from None


def _vector(checkpoint: Checkpoint, settings: Settings) -> PublishedTabularConfig:
    hidden = _numbers("dims", settings.dims)
    return PublishedTabularConfig(
        features=checkpoint.first_shape[-1],
        blocks=_numbers("nblocks", settings.nblocks)[0],
        hidden_features=hidden,
        activation=ACTIVATIONS[settings.act],
        lipschitz=settings.coeff ** (len(hidden) + 1),  # the public one is a layer's
        actnorm=settings.actnorm,
        preactivation=checkpoint.first.module > 0,
        norm=_norm(settings),
        metric="bits" if "arch" in checkpoint.args else "log_likelihood",
    )


def _image(checkpoint: Checkpoint, settings: Settings) -> PublishedImageConfig:
    kernels, squeezed = _numbers("kernels", settings.kernels), settings.squeeze_first
    size = settings.imagesize // 2 if squeezed else settings.imagesize
    scales = max(0, size.bit_length() - 2)  # how often it can be halved while it is 4 or more
    channels = checkpoint.first_shape[1]
    flat = {(place.scale, place.index) for place in checkpoint.places if place.flat}
    bits = {"celeba_5bit": 5, "celebahq": settings.nbits}
    return PublishedImageConfig(
        channels=channels // 4 if squeezed else channels,
        image_size=(settings.imagesize, settings.imagesize),
        bits=bits.get(settings.data, 8),
        alpha=1e-6 if settings.data == "mnist" else 0.05,
        blocks=_numbers("nblocks", settings.nblocks)[:scales],
        width=settings.idim,
        kernels=kernels,
        activation=ACTIVATIONS[settings.act],
        preactivation=settings.preact,
        first_preactivation=settings.preact and checkpoint.first.module > 0,
        lipschitz=settings.coeff ** len(kernels),
        norm=_norm(settings),
        squeeze_first=squeezed,
        actnorm=settings.actnorm,
        factor_out=settings.factor_out,
        fc_blocks=len(flat) if settings.fc_end else 0,
        fc_hidden=(settings.fc_idim,) * (len(kernels) - 1),
    )


def _numbers(name: str, text: str) -> tuple[int, ...]:
    words = text.split("-")
    plain = all(word.isascii() and word.isdigit() and len(word) <= 9 for word in words)
    require(plain, name, text, "numbers joined by '-'")
    return tuple(map(int, words))


def _norm(settings: Settings) -> str:
    """The norms between layers; `2` where all of them are."""
    if settings.learn_p:
        return "p" * len(settings.vnorms)
    require("p" not in settings.vnorms, "vnorms", settings.vnorms, "1, 2 or f")
    return "2" if set(settings.vnorms) == {"2"} else settings.vnorms
