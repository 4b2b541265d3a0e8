"""Write the made-up table of the guide to `fit`: columns of many kinds, and some of no use.

python examples/made_up_table.py own.csv
impflow-zoo init own.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROWS, MISSING = 3000, 59


def made_up_table(seed: int = 0) -> pd.DataFrame:
    """The table: what is measured depends on the direction and on the size of something."""
    random = np.random.default_rng(seed)
    angle = np.rad2deg(random.vonmises(0.6, 0.7, ROWS)) % 360
    size = random.gamma(1.5, 2.0, ROWS)
    turned = np.sin(np.deg2rad(angle))
    speed = 20 + 3 * turned * np.sqrt(size) + random.normal(0, 0.8, ROWS)
    share = 1 / (1 + np.exp(-(1.5 * turned + random.normal(0, 2.0, ROWS))))
    speed[random.permutation(ROWS)[:MISSING]] = np.nan
    return pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "when": pd.date_range("2024-01-01", periods=ROWS, freq="h").strftime("%Y-%m-%d"),
            "unit": 1,
            "angle": angle.round(3),
            "size": size,
            "size_cm": 100 * size,
            "speed": speed.round(2),
            "count": random.poisson(2 * size),
            "share": share,
            "site": np.where(turned > 0, "north", "south"),
        }
    )


if __name__ == "__main__":
    made_up_table().to_csv(Path(sys.argv[1]), index=False)
