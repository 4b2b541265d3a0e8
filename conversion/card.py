"""What a converted model's card says."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

from conversion.selfcheck import SelfCheck, bound_line
from impflow_zoo.lipschitz.certify import Certificate
from impflow_zoo.models.flow import FlowModel

if TYPE_CHECKING:
    from conversion.convert import Converted

__all__ = ["section", "with_section"]

_BEGIN, _END = "<!-- conversion -->", "<!-- end of conversion -->"
_SHOWN = (
    "data",
    "arch",
    "act",
    "coeff",
    "vnorms",
    "learn_p",
    "dims",
    "nblocks",
    "idim",
    "kernels",
    "imagesize",
    "nbits",
    "actnorm",
    "preact",
    "fc_end",
    "fc_idim",
    "factor_out",
    "squeeze_first",
    "n_dist",
    "n_power_series",
    "n_exact_terms",
    "n_samples",
)
_PAPERS = {
    "ImpFlow": "https://github.com/thu-ml/implicit-normalizing-flows",
    "ResFlow": "https://github.com/rtqichen/residual-flows",
}


def section(
    converted: Converted, certificate: tuple[Certificate, ...], outcome: SelfCheck | None
) -> str:
    """Where the weights come from, and what was checked."""
    model, settings = converted.model, converted.settings
    kind = "averaged (EMA)" if converted.averaged else "raw"
    shown = ", ".join(
        f"{name} {reprlib.repr(settings.get(name))}" for name in _SHOWN if name in settings
    )
    norms = (
        "Power vectors are used as they were saved, so that effective weights are those of the "
        "public code; a net's norm may exceed its coefficient by what they had not converged."
        if getattr(model.config, "stored_norms", False)
        else "Power vectors were brought to convergence: values differ from the public code's by "
        "what they had not converged."
    )
    lines = [
        _BEGIN,
        "## Conversion",
        "",
        f"The {kind} weights of `{converted.source.name}` (sha256 `{converted.sha256[:16]}...`), "
        f"a checkpoint of the public training scripts ({_PAPERS[type(model).__name__]}, MIT "
        "licence), by `python -m conversion`. "
        f"{norms}",
        "",
        f"Settings of the script: {shown}.",
        "",
        f"- {sum(p.numel() for p in model.parameters()):,} parameters",
        f"- {bound_line(certificate)}"
        if outcome is None
        else "\n".join(f"- self-check, {line}" for line in outcome.lines()),
        "- the random series of the script's training (`n_dist`) estimates the same "
        "log-determinant; here it is computed as `logdet` says",
        _END,
    ]
    return "\n".join(lines)


def with_section(card: str | None, text: str, model: FlowModel, name: str) -> str:
    """A card with the section: a new one, or the one that is there."""
    if card is None:
        card = _new(model, name)
    if _BEGIN in card and _END in card:
        before, rest = card.split(_BEGIN, 1)
        return f"{before}{text}{rest.split(_END, 1)[1]}"
    return f"{card.rstrip()}\n\n{text}\n"


def _new(model: FlowModel, name: str) -> str:
    kind = type(model).__name__
    noise = "model.bits_per_dim(x)" if len(model.config.shape) == 3 else "model.log_prob(x)"
    return (
        "---\nlibrary_name: impflow_zoo\nlicense: mit\ntags:\n- normalizing-flow\n"
        f"- density-estimation\n- {kind.lower()}\n---\n\n# {name}\n\n"
        f"```python\nfrom impflow_zoo import {kind}\n\n"
        f'model = {kind}.from_pretrained("{name}")\nx = model.sample(4)\nprint({noise})\n```\n'
    )
