"""Models of the two papers from their definition: random weights, and what they compute.

The other side of the tests of conversion: plain functions of a state and the settings, slow and
dense, with nothing of the package in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]

TOY: dict[str, Any] = {
    **{"data": "rings", "arch": "iresnet", "coeff": 0.9, "vnorms": "222", "learn_p": False},
    **{"mixed": True, "dims": "8", "act": "swish", "nblocks": 2, "actnorm": False},
    **{"batchnorm": False, "n_dist": "geometric"},
}
IMAGE: dict[str, Any] = {
    **{"data": "cifar10", "imagesize": 8, "nbits": 8, "block": "resblock", "coeff": 0.9},
    **{"vnorms": "2222", "learn_p": False, "factor_out": False, "n_dist": "poisson"},
    **{"act": "swish", "idim": 6, "nblocks": "1-1", "squeeze_first": False, "actnorm": True},
    **{"fc_actnorm": False, "batchnorm": False, "dropout": 0.0, "fc": False, "kernels": "3-1-3"},
    **{"add_noise": True, "quadratic": False, "fc_end": False, "fc_idim": 5, "preact": True},
    **{"padding": 0, "first_resblock": True, "task": "density"},
}


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sin": lambda x: torch.sin(2 * math.pi * x) / (2 * math.pi),
    "elu": functional.elu,
    "softplus": functional.softplus,
    "relu": functional.relu,
    "tanh": torch.tanh,
}


class Published:
    """A model with random weights.

    Arguments:
        args: settings of the script.
        implicit: implicit or residual blocks.
        shape: shape of a row.
    """

    def __init__(self, args: dict[str, Any], *, implicit: bool, shape: tuple[int, ...]) -> None:
        self.args, self.implicit, self.shape = args, implicit, shape
        self.generator = torch.Generator().manual_seed(0)
        self.state: State = {}
        self.steps: list[tuple[str, Any]] = []  # what happens, in order
        self._images() if len(shape) == 3 else self._rows()
        # The scripts save in float32.
        self.state = {k: v.float() if v.is_floating_point() else v for k, v in self.state.items()}

    # ------------------------------------------------------------------------------- weights

    def _rows(self) -> None:
        args, width = self.args, self.shape[0]
        widths = [width, *map(int, args["dims"].split("-")), width]
        index = itertools.count()
        if args["actnorm"]:
            self._actnorm(f"chain.{next(index)}", width)
        for _ in range(args["nblocks"]):
            self._block(f"chain.{next(index)}", widths, None, preact=not self.implicit)
            if args["actnorm"]:
                self._actnorm(f"chain.{next(index)}", width)

    def _images(self) -> None:
        args, (c, h, w) = self.args, self.shape
        if args["squeeze_first"]:
            self.steps.append(("squeeze", None))
            c, h, w = 4 * c, h // 2, w // 2
        self.steps.append(("logit", 0.05))
        counts = list(map(int, args["nblocks"].split("-")))
        for s, count in enumerate(counts):
            last, index = s == len(counts) - 1, itertools.count(1 if s == 0 else 0)
            if s == 0 and args["actnorm"]:
                self._actnorm(f"transforms.{s}.chain.{next(index)}", c)
            for b in range(count):
                first = s == 0 and b == 0 and not last
                kernels = list(map(int, args["kernels"].split("-")))
                widths = [c, *[args["idim"]] * (len(kernels) - 1), c]
                path = f"transforms.{s}.chain.{next(index)}"
                self._block(path, widths, (kernels, h, w), preact=args["preact"] and not first)
                if args["actnorm"]:
                    self._actnorm(f"transforms.{s}.chain.{next(index)}", c)
            if not last:
                self.steps.append(("squeeze", None))
                c, h, w = 4 * c, h // 2, w // 2
                if args["factor_out"]:
                    self.steps.append(("half", None))
                    c = c // 2
            elif args["fc_end"]:
                depth = len(args["kernels"].split("-")) - 1
                widths = [c * h * w, *[args["fc_idim"]] * depth, c * h * w]
                self.steps.append(("flatten", None))
                for _ in range(2 if self.implicit else 4):
                    path = f"transforms.{s}.chain.{next(index)}"
                    self._block(path, widths, None, preact=args["preact"], flat=True)
                    if args["actnorm"]:
                        path = f"transforms.{s}.chain.{next(index)}"
                        self._actnorm(path, c * h * w, ".fc_module")

    def _randn(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def _actnorm(self, path: str, width: int, inner: str = "") -> None:
        self.state[f"{path}{inner}.weight"] = self._randn(width, scale=0.3)
        self.state[f"{path}{inner}.bias"] = self._randn(width)
        self.state[f"{path}{inner}.initialized"] = torch.tensor(1)
        self.steps.append(("actnorm", path + inner))

    def _block(
        self, path: str, widths: list[int], images: Any, *, preact: bool, flat: bool = False
    ) -> None:
        self.state[f"{path}.lamb"] = torch.tensor(2.0)
        if not self.implicit:
            self.state[f"{path}.geom_p"] = torch.tensor(0.5, dtype=torch.float64)
        names = ("nnet_x", "nnet_z") if self.implicit else ("nnet",)
        nets = [f"{path}.{name}{'.nnet' if flat else ''}" for name in names]
        for net in nets:
            self._net(net, widths, images, preact=preact)
        self.steps.append(("block", [(net, len(widths) - 1, preact, images) for net in nets]))

    def _net(self, path: str, widths: list[int], images: Any, *, preact: bool) -> None:
        learned = [self._randn(scale=0.5) for _ in widths[1:]]
        for i, (n, m) in enumerate(itertools.pairwise(widths)):
            at = f"{path}.{2 * i + preact}"
            if self.args["act"] == "swish" and (i or preact):
                self.state[f"{path}.{2 * i + preact - 1}.beta"] = self._randn(1)
            p, q = self._space(i)
            kernel, h, w = (images[0][i], *images[1:]) if images else (1, 1, 1)
            shape = (m, n, kernel, kernel) if images else (m, n)
            self.state[f"{at}.weight"] = self._randn(*shape, scale=1.5 / (n * kernel) ** 0.5)
            self.state[f"{at}.bias"] = self._randn(m, scale=0.3)
            self.state[f"{at}.scale"] = torch.tensor(1.0)
            if images:
                self.state[f"{at}.initialized"] = torch.tensor(1)
                self.state[f"{at}.spatial_dims"] = torch.tensor([float(h), float(w)])
            if self.args["learn_p"]:
                self.state[f"{at}.domain"] = learned[i]
                self.state[f"{at}.codomain"] = learned[(i + 1) % len(learned)]
            if self.args["learn_p"] or not (p == 1 or (q == math.inf and p in (2, math.inf))):
                size = h * w if kernel > 1 else 1
                weight = self.state[f"{at}.weight"]
                v = self._randn(n * size)
                for _ in range(5):  # not converged, as the scripts leave them
                    u = functional.normalize(_apply(weight, v, h, w), dim=0)
                    v = functional.normalize(_adjoint(weight, u, h, w), dim=0)
                self.state[f"{at}.u"], self.state[f"{at}.v"] = u, v

    def _space(self, layer: int) -> tuple[float, float]:
        orders = [math.inf if p == "f" else float(p) for p in self.args["vnorms"]]
        return orders[layer], orders[layer + 1]

    # -------------------------------------------------------------------------------- values

    def _effective(self, at: str, layer: int, images: Any) -> Tensor:
        """The weight in use."""
        weight, coeff = self.state[f"{at}.weight"].double(), self.args["coeff"]
        if f"{at}.u" in self.state:
            u, v = self.state[f"{at}.u"].double(), self.state[f"{at}.v"].double()
            h, w = images[1:] if images else (1, 1)
            factor = (u @ _apply(weight, v, h, w) / coeff).float().clamp(min=1).double()
            return weight / factor
        p, q = self._space(layer)
        by_column = p == 1
        order = {1.0: q, 2.0: 2.0, math.inf: 1.0}[p]
        others = [i for i in range(weight.dim()) if i != int(by_column)]
        norms = torch.linalg.vector_norm(weight, order, dim=others, keepdim=True)
        return weight / (norms / coeff).clamp(min=1)

    def _g(self, x: Tensor, net: tuple[str, int, bool, Any]) -> Tensor:
        path, layers, preact, images = net
        for i in range(layers):
            if i or preact:
                x = self._act(x, f"{path}.{2 * i + preact - 1}.beta")
            at = f"{path}.{2 * i + preact}"
            weight, bias = self._effective(at, i, images), self.state[f"{at}.bias"].double()
            if images:
                x = functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
            else:
                x = functional.linear(x, weight, bias)
        return x

    def _act(self, x: Tensor, beta: str) -> Tensor:
        if self.args["act"] == "swish":
            return x * torch.sigmoid(x * functional.softplus(self.state[beta].double())) / 1.1
        return ACTIVATIONS[self.args["act"]](x)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and exact log-determinants of rows in float64."""
        total, left = x.new_zeros(len(x)), []
        for kind, what in self.steps:
            if kind == "block":
                x, logdet = self._through(x, what)
                total = total + logdet
            elif kind == "actnorm":
                scale, bias = self.state[f"{what}.weight"].double(), self.state[f"{what}.bias"]
                view = (1, -1, *[1] * (x.dim() - 2))
                x = (x + bias.double().view(view)) * scale.exp().view(view)
                total = total + scale.sum() * math.prod(x.shape[2:])
            elif kind == "logit":
                inner = what + (1 - 2 * what) * x
                slope = math.log(1 - 2 * what) - inner.log() - (1 - inner).log()
                x, total = inner.logit(), total + slope.flatten(1).sum(1)
            elif kind == "squeeze":
                x = functional.pixel_unshuffle(x, 2)
            elif kind == "half":
                x, leaving = x.chunk(2, dim=1)
                left.append(leaving.flatten(1))
            else:
                x = x.flatten(1)
        return torch.cat((*left, x.flatten(1)), dim=1), total

    def _through(self, x: Tensor, nets: list[Any]) -> tuple[Tensor, Tensor]:
        image = x + self._g(x, nets[0])
        logdet = self._logdet(x, nets[0])
        if len(nets) == 1:
            return image, logdet
        z = image
        for _ in range(2000):
            z, before = image - self._g(z, nets[1]), z
            if torch.equal(z, before):
                break
        return z, logdet - self._logdet(z, nets[1])

    def _logdet(self, x: Tensor, net: Any) -> Tensor:
        def row(one: Tensor) -> Tensor:
            return one + self._g(one[None], net)[0]

        with torch.enable_grad():
            jacobians = [torch.autograd.functional.jacobian(row, one) for one in x]
        size = x[0].numel()
        return torch.stack([torch.linalg.slogdet(j.view(size, size))[1] for j in jacobians])


def _apply(weight: Tensor, v: Tensor, h: int, w: int) -> Tensor:
    if weight.dim() == 2:
        return weight @ v
    size = (h, w) if weight.shape[-1] > 1 else (1, 1)
    image = v.view(1, weight.shape[1], *size)
    return functional.conv2d(image, weight, padding=weight.shape[-1] // 2).flatten()


def _adjoint(weight: Tensor, u: Tensor, h: int, w: int) -> Tensor:
    if weight.dim() == 2:
        return u @ weight
    size = (h, w) if weight.shape[-1] > 1 else (1, 1)
    image = u.view(1, weight.shape[0], *size)
    return functional.conv_transpose2d(image, weight, padding=weight.shape[-1] // 2).flatten()
