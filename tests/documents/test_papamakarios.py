"""The four benchmarks on made-up files of the published layouts."""

from __future__ import annotations

import pickle
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import papamakarios
import pytest
import torch
from papamakarios import READERS
from support.checkout import CHECKOUT
from support.command_line import call
from support.published_tables import collisions, events, household, sensors

from impflow_zoo.data import DataError, open_source


def opened(kind: str, path: Path) -> list[np.ndarray]:
    rows = READERS[kind](path)
    assert all(r.dtype == torch.float64 for r in rows)
    return [r.numpy() for r in rows]


def standardised(parts: list[np.ndarray], seen: np.ndarray, ddof: int) -> list[np.ndarray]:
    return [(part - seen.mean(0)) / seen.std(0, ddof=ddof) for part in parts]


def assert_close(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


# POWER: active and reactive power, voltage, current, three meters, minutes.


def test_power_rows_are_the_published_ones(tmp_path: Path) -> None:
    data = household()
    np.save(tmp_path / "data.npy", data)
    rng = np.random.RandomState(42)
    rng.shuffle(data)
    voltage, active, meters = rng.rand(1234), rng.rand(1234), rng.rand(1234, 3)
    kept = np.column_stack(
        (
            data[:, 0] + 0.001 * active,
            data[:, 2] + 0.01 * voltage,
            data[:, 4:7] + meters,
            data[:, 7],
        )
    )
    parts = [kept[:1000], kept[1000:1111], kept[1111:]]
    assert_close(opened("power", tmp_path), standardised(parts, kept[:1111], ddof=0))
    assert_close(opened("power", tmp_path / "data.npy"), opened("power", tmp_path))


def test_power_from_uci_text(tmp_path: Path) -> None:
    data = household(600)
    data[:, 7] = np.arange(600)
    np.save(tmp_path / "data.npy", data)
    lines = [
        "Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;"
        "Sub_metering_1;Sub_metering_2;Sub_metering_3"
    ]
    for row in data:
        minute = int(row[7])
        measured = ";".join(f"{v:.3f}" for v in row[:7])
        lines.append(f"16/12/2006;{minute // 60:02}:{minute % 60:02}:00;{measured}")
        lines.append("16/12/2006;05:06:00;?;?;?;?;?;?;")
    file = tmp_path / "household_power_consumption.txt"
    file.write_text("\n".join(lines))
    made, expected = (opened("power", tmp_path / name) for name in (file.name, "data.npy"))
    assert_close([m[:, :5] for m in made], [e[:, :5] for e in expected])
    minutes = np.concatenate([e[:, 5] for e in expected])
    off = (np.concatenate([m[:, 5] for m in made]) - minutes) * 600 / np.ptp(minutes)
    assert 0.9 < np.ptp(off) < 1.1  # the noise of one minute


# GAS: time, two concentrations, sixteen sensors.


def gas_by_pandas(table: pandas.DataFrame) -> list[np.ndarray]:
    """Drop the first of the columns that correlate with another, until none does."""
    table = table.iloc[:, 3:]
    while ((table.corr() > 0.98).sum() > 1).any():
        table = table.drop(columns=(table.corr() > 0.98).sum().gt(1).idxmax())
    values = ((table - table.mean()) / table.std()).to_numpy()
    test = len(values) - int(0.1 * len(values))
    train = test - int(0.1 * test)
    return [values[:train], values[train:test], values[test:]]


def test_gas(tmp_path: Path) -> None:
    names = ["Time", "Meth", "Eth", *(f"S{i}" for i in range(16))]
    table = pandas.DataFrame(sensors(), columns=names)
    table.to_parquet(tmp_path / "ethylene_CO.parquet")
    expected = gas_by_pandas(table)
    assert expected[0].shape == (648, 14)
    assert_close(opened("gas", tmp_path), expected)


def test_gas_from_uci_text_is_a_quarter(tmp_path: Path) -> None:
    data = sensors(2001)
    lines = ["Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings (16 channels)"]
    lines += [" ".join(f"{v:.6f}" for v in row) + "  " for row in data]
    (tmp_path / "ethylene_CO.txt").write_text("\n".join(lines))
    rows = np.concatenate(opened("gas", tmp_path))
    assert rows.shape == (500, 14)
    assert len(np.unique(rows, axis=0)) == 500
    np.testing.assert_allclose(rows.std(0, ddof=1), 1)
    assert_close(opened("gas", tmp_path), opened("gas", tmp_path / "ethylene_CO.txt"))


# HEPMASS: label, features; the test file has a column more than its header needs.


@pytest.mark.parametrize("zipped", [False, True])
def test_hepmass(tmp_path: Path, zipped: bool) -> None:
    rng = np.random.default_rng(2)
    train, test = collisions(rng, 1500), collisions(rng, 700)
    suffix = ".csv.gz" if zipped else ".csv"
    train.to_csv(tmp_path / f"1000_train{suffix}", index=False)
    test.assign(mass=1000.0).to_csv(tmp_path / f"1000_test{suffix}", index=False)
    kept = [f"f{i}" for i in range(27) if i not in (4, 9)]
    seen, unseen = (t[t["# label"] == 1][kept].to_numpy() for t in (train, test))
    held = int(0.1 * len(seen))
    parts = [seen[:-held], seen[-held:], unseen]
    assert_close(opened("hepmass", tmp_path), standardised(parts, seen, ddof=1))


def test_hepmass_takes_the_first_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"train": 1000, "test": 400}
    monkeypatch.setattr(papamakarios, "HEPMASS_ROWS", limits)
    for part, rows in limits.items():
        table = collisions(np.random.default_rng(3), 2 * rows)
        table.to_csv(tmp_path / f"1000_{part}.csv", index=False)
    train, validation, test = opened("hepmass", tmp_path)
    labels = collisions(np.random.default_rng(3), 2000)["# label"]
    assert len(train) + len(validation) == labels[:1000].sum()
    labels = collisions(np.random.default_rng(3), 800)["# label"]
    assert len(test) == labels[:400].sum()


# MINIBOONE: fifty features, signal before background.


def miniboone_by_hand(kept: np.ndarray) -> list[np.ndarray]:
    test = len(kept) - int(0.1 * len(kept))
    train = test - int(0.1 * test)
    parts = [kept[:train], kept[train:test], kept[test:]]
    return standardised(parts, kept[:test], ddof=0)


def test_miniboone(tmp_path: Path) -> None:
    _, kept = events()
    np.save(tmp_path / "data.npy", kept)
    assert kept.shape == (1008, 48)
    assert_close(opened("miniboone", tmp_path), miniboone_by_hand(kept))


def test_miniboone_from_uci_text(tmp_path: Path) -> None:
    signal, kept = events()
    background = np.full((30, 50), 7.0)
    with (tmp_path / "MiniBooNE_PID.txt").open("w") as file:
        file.write(f" {len(signal)}  {len(background)}\n")
        np.savetxt(file, np.concatenate((signal, background)), fmt="%12.5e")
    expected = miniboone_by_hand(kept)
    for made, by_hand in zip(opened("miniboone", tmp_path), expected, strict=True):
        np.testing.assert_allclose(made, by_hand, atol=1e-4)  # five digits in the text


# Mistakes.


def _npy(root: Path, values: object) -> Path:
    np.save(root / "data.npy", np.asarray(values), allow_pickle=True)
    return root


def _pickle(root: Path) -> Path:
    (root / "ethylene_CO.pickle").write_bytes(pickle.dumps({"a": 1}))
    return root


def _nan(root: Path) -> Path:
    data = household(200)
    data[13, 2] = np.nan
    return _npy(root, data)


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("gas", _pickle, r"none of the files ethylene_CO\.parquet, ethylene_CO\.txt"),
        ("gas", lambda root: _pickle(root) / "ethylene_CO.pickle", r"none of the files"),
        ("power", lambda root: root / "gone", r"gone is none of the files"),
        ("power", lambda root: _npy(root, np.ones((200, 7))), r"shape \(200, 7\), expected 8"),
        ("power", lambda root: _npy(root, np.ones((2, 2, 2))), r"shape \(2, 2, 2\)"),
        ("power", _nan, r"data\.npy: row 13, column 2 .*not finite"),
    ],
)
def test_mistakes(tmp_path: Path, kind: str, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(kind, make(tmp_path))


def test_a_pickle_in_the_clothes_of_an_array_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        opened("power", _npy(tmp_path, {"a": [1]}))


def test_the_command_writes_a_folder_to_train_on(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", household())
    script = partial(runpy.run_path, str(CHECKOUT / "examples/prepare.py"), run_name="__main__")
    said = call(script, "prepare.py", "power", tmp_path, tmp_path / "out")
    assert said.code == 0, said.err
    assert said.out.startswith("1,000 rows of 6 columns in ")
    for split, rows in zip(("train", "validation", "test"), opened("power", tmp_path), strict=True):
        source = open_source(tmp_path / "out", split)
        assert source.rows(range(len(source))).equal(torch.from_numpy(rows))
