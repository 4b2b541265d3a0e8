"""Images two of which cannot be decoded, and what is to be heard of them."""

from __future__ import annotations

import warnings
from typing import Any

from support.image_models import make
from support.image_sets import encoded, pictures

from impflow_zoo import LogDet, ResFlow
from impflow_zoo.data import LeftOutWarning
from impflow_zoo.models.flow import FlowModel

GOOD = pictures(7)
TRUNCATED = encoded(GOOD[4])["bytes"][:90]
BAD = {2: b"\x89PNG broken", 4: TRUNCATED}


def small() -> FlowModel:
    """A model whose noise and probes both tell rows apart."""
    return make("plain", ResFlow, size=8, blocks=(1,), logdet=LogDet("truncated", n_terms=3))


def left_out(rows: int) -> Any:
    """Expect one warning for each row that is left out, the first of which is row 2."""

    class Expectation(warnings.catch_warnings):
        def __init__(self) -> None:
            super().__init__(record=True)

        def __enter__(self) -> None:
            self.seen = super().__enter__()
            warnings.simplefilter("always")

        def __exit__(self, *error: object) -> None:
            super().__exit__(*error)
            if error[0] is None:
                assert [w.category for w in self.seen] == [LeftOutWarning] * rows
                assert all(str(w.message).endswith("; left out") for w in self.seen)
                assert "cannot decode the image of row 2: " in str(self.seen[0].message)

    return Expectation()
