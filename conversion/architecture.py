"""From the settings of the public scripts to a config of the zoo."""

from __future__ import annotations

import ast
import reprlib
from typing import Any

from conversion.errors import ConversionError
from conversion.reference import Reference
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.published import PublishedImageConfig, PublishedTabularConfig

__all__ = ["ACTIVATIONS", "Settings", "config_of"]

ACTIVATIONS = {
    "sin": "sin",
    "swish": "lipswish",
    "elu": "elu",
    "softplus": "softplus",
    "relu": "published-relu",
    "tanh": "published-tanh",
    "identity": "published-identity",
    "lcube": "published-lcube",
    "fullsort": "published-fullsort",
    "maxmin": "published-maxmin",
}
# Settings that change what a model computes in ways that a config has no word for.
_PLAIN = {
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
_TEXT = ("vnorms", "act", "data", "arch", "block", "task")  # never numbers, whatever they look like
_READ = {
    "alpha",
    "coeff",
    "learn_p",
    "dims",
    "nblocks",
    "kernels",
    "imagesize",
    "nbits",
    "idim",
    "fc_idim",
    "fc_end",
    "preact",
    "actnorm",
    "factor_out",
    "squeeze_first",
    "first_resblock",
}
_LARGEST = 10**9


class Settings:
    """The settings of a checkpoint, with those that the user overrides.

    Arguments:
        args: what the script was called with.
        overrides: settings that are to hold instead.
    """

    def __init__(self, args: dict[str, Any], overrides: dict[str, Any]) -> None:
        unknown = sorted(overrides.keys() - args.keys() - _PLAIN.keys() - set(_TEXT) - _READ)
        if unknown:
            raise ConversionError(
                f"unknown setting {unknown[0]!r}: this checkpoint has {', '.join(sorted(args))}"
            )
        self._values = {**args, **overrides}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """A setting, or what it is where the script does not have it."""
        return self._values.get(name, default)

    def number(self, name: str, kind: type = float) -> Any:
        """A setting that is a number.

        Raises:
            ConversionError: if it is missing or none.
        """
        value: Any = self._values.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not -_LARGEST < value < _LARGEST or kind(value) != value:
            raise ConversionError(
                f"setting {name}={reprlib.repr(value)}: a number is due, see --set"
            )
        return kind(value)

    def text(self, name: str) -> str:
        """A setting as text: that of nested values is cut, as it may be of any length."""
        value = self._values.get(name)
        return value if isinstance(value, str) else reprlib.repr(value)

    def numbers(self, name: str) -> tuple[int, ...]:
        """A setting that lists numbers, joined by hyphens."""
        words = self.text(name).split("-")
        if not all(word.isascii() and word.isdigit() and len(word) <= 9 for word in words):
            raise ConversionError(
                f"setting {name}={reprlib.repr(self._values.get(name))}: numbers joined by '-' "
                "are due, see --set"
            )
        return tuple(int(word) for word in words)

    @staticmethod
    def parse(words: list[str]) -> dict[str, Any]:
        """Overrides of the form `name=value` from the command line."""
        overrides: dict[str, Any] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise ConversionError(f"--set {word!r}: name=value is due")
            name = name.replace("-", "_")
            try:
                overrides[name] = value if name in _TEXT else ast.literal_eval(value)
            except (ValueError, SyntaxError):
                overrides[name] = value
        return overrides


def config_of(
    reference: Reference, settings: Settings
) -> PublishedTabularConfig | PublishedImageConfig:
    """The config of a checkpoint's model.

    Raises:
        ConversionError: if a setting cannot be represented; it names all that cannot.
    """
    problems = [
        f"{name}={reprlib.repr(settings.get(name))}"
        for name, possible in _PLAIN.items()
        if name in settings and settings.get(name) not in possible
    ]
    if settings.text("act") not in ACTIVATIONS:
        problems.append(f"act={reprlib.repr(settings.get('act'))}")
    if settings.get("first_resblock", True) is False and settings.get("actnorm"):
        problems.append("first_resblock=False with actnorm=True")
    if problems:
        raise ConversionError(f"settings that are not represented here: {', '.join(problems)}")
    if not reference.blocks:
        raise ConversionError("the checkpoint has no implicit or residual block")
    try:
        return _image(reference, settings) if reference.images else _vector(reference, settings)
    except (ConfigError, ValueError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"settings that are not represented here: {error}") from None


def _vector(reference: Reference, settings: Settings) -> PublishedTabularConfig:
    hidden, first = settings.numbers("dims"), next(iter(reference.blocks[0].nets.values()))
    if not first.layers:
        raise ConversionError("the first block has no layers: damaged")
    return PublishedTabularConfig(
        net="spectral",
        features=reference.shape(first.layers[0].keys["weight"])[-1],
        blocks=settings.number("nblocks", int),
        hidden_features=hidden,
        activation=ACTIVATIONS[settings.text("act")],
        lipschitz=_whole(settings, len(hidden) + 1),
        actnorm=bool(settings.get("actnorm", False)),
        actnorm_ends=bool(settings.get("actnorm", False)),
        centred_actnorm=True,
        preactivation=first.layers[0].index > 0,
        norm=_norm(settings, len(hidden) + 1),
        stored_norms=True,
        metric="bits" if "arch" in settings else "log_likelihood",
    )


def _image(reference: Reference, settings: Settings) -> PublishedImageConfig:
    size, kernels = settings.number("imagesize", int), settings.numbers("kernels")
    squeezed = bool(settings.get("squeeze_first", False))
    blocks = settings.numbers("nblocks")
    blocks = blocks[: _halvings(size // 2 if squeezed else size)]
    first = next(iter(reference.blocks[0].nets.values()))
    if not first.layers:
        raise ConversionError("the first block has no layers: damaged")
    channels = reference.shape(first.layers[0].keys["weight"])[1]
    preactivation = bool(settings.get("preact", False))
    flat = [u for u in reference.blocks if any(net.flat for net in u.nets.values())]
    return PublishedImageConfig(
        channels=channels // 4 if squeezed else channels,
        image_size=(size, size),
        bits=_bits(settings),
        alpha=settings.number("alpha") if "alpha" in settings else _alpha(settings),
        blocks=blocks,
        width=settings.number("idim", int),
        kernels=kernels,
        activation=ACTIVATIONS[settings.text("act")],
        preactivation=preactivation,
        first_preactivation=preactivation and first.layers[0].index > 0,
        lipschitz=_whole(settings, len(kernels)),
        norm=_norm(settings, len(kernels)),
        stored_norms=True,
        squeeze_first=squeezed,
        actnorm=bool(settings.get("actnorm", False)),
        centred_actnorm=True,
        factor_out=bool(settings.get("factor_out", False)),
        fc_blocks=len(flat) if settings.get("fc_end", False) else 0,
        fc_hidden=(settings.number("fc_idim", int),) * (len(kernels) - 1),
    )


def _whole(settings: Settings, layers: int) -> float:
    """The public coefficient is a layer's; ours is the whole net's, shared out evenly."""
    coefficient = settings.number("coeff")
    if not 0 < coefficient < 1:
        raise ConversionError(
            f"settings that are not represented here: coeff={coefficient!r}, not between 0 and 1"
        )
    return coefficient**layers


def _norm(settings: Settings, layers: int) -> str:
    """The word for the norms between layers; `2` where all of them are."""
    orders = settings.text("vnorms")
    if len(orders) != layers + 1 or not set(orders) <= set("12f"):
        raise ConversionError(
            f"settings that are not represented here: vnorms={orders!r} for {layers} layers, "
            f"{layers + 1} characters 1, 2 or f are due"
        )
    if settings.get("learn_p"):
        return "p" * (layers + 1)
    return "2" if set(orders) == {"2"} else orders


def _halvings(size: int) -> int:
    """How many scales an image of that size has at most."""
    count = 0
    while size >= 4:
        size, count = size // 2, count + 1
    return count


def _alpha(settings: Settings) -> float:
    return 1e-6 if settings.get("data") == "mnist" else 0.05


def _bits(settings: Settings) -> int:
    data = settings.get("data")
    if data == "celeba_5bit":
        return 5
    return settings.number("nbits", int) if data == "celebahq" else 8
