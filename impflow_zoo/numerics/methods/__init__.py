"""Methods of root finding, one file each: they propose the next iterate."""

from impflow_zoo.numerics.methods.anderson import Anderson
from impflow_zoo.numerics.methods.base import Method
from impflow_zoo.numerics.methods.broyden import Broyden
from impflow_zoo.numerics.methods.newton import Newton

METHODS: dict[str, type[Method]] = {
    "fixed_point": Method,
    "anderson": Anderson,
    "broyden": Broyden,
    "newton": Newton,
}
