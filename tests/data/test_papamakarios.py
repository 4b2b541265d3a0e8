"""The four benchmarks on made-up files of the published layouts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from support.published_tables import collisions, events, household, sensors

from impflow_zoo.data import DataError, open_source

SPLITS = ("train", "validation", "test")


def opened(kind: str, path: Path) -> list[np.ndarray]:
    sources = [open_source(f"{kind}:{path}", split) for split in SPLITS]
    assert [s.name for s in sources] == [f"{kind}:{path} ({split})" for split in SPLITS]
    rows = [source.rows(range(len(source))) for source in sources]
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
    with pytest.raises(DataError, match="its columns are x0 to x5, not "):
        open_source(f"power:{tmp_path}", "test", columns=["x0"])


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


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy", "indexed.csv"])
def test_gas(tmp_path: Path, suffix: str) -> None:
    names = ["Time", "Meth", "Eth", *(f"S{i}" for i in range(16))]
    table = pandas.DataFrame(sensors(), columns=names)
    file = tmp_path / f"ethylene_CO.{suffix}"
    if suffix == "npy":
        np.save(file, table.to_numpy())
    elif suffix == "parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, index=suffix == "indexed.csv")
    expected = gas_by_pandas(table)
    assert expected[0].shape == (648, 14)
    assert_close(opened("gas", file), expected)


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
    from impflow_zoo.data import papamakarios

    limits = {"1000_train.csv": 1000, "1000_test.csv": 400}
    monkeypatch.setattr(papamakarios, "_HEPMASS_ROWS", limits)
    for name, rows in limits.items():
        collisions(np.random.default_rng(3), 2 * rows).to_csv(tmp_path / name, index=False)
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


def _text(root: Path, name: str, text: str) -> Path:
    (root / name).write_text(text)
    return root


def _pickle(root: Path) -> Path:
    (root / "ethylene_CO.pickle").write_bytes(pickle.dumps({"a": 1}))
    return root


def _nan(root: Path) -> Path:
    data = household(200)
    data[13, 2] = np.nan
    return _npy(root, data)


def _no_signal(root: Path) -> Path:
    table = collisions(np.random.default_rng(0), 300)
    table["# label"] = 0
    table.to_csv(root / "1000_test.csv", index=False)
    table.to_csv(root / "1000_train.csv", index=False)
    return root


def _short_test(root: Path) -> Path:
    table = collisions(np.random.default_rng(0), 300)
    table.to_csv(root / "1000_train.csv", index=False)
    table.iloc[:, :-1].to_csv(root / "1000_test.csv", index=False)
    return root


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("gas", _pickle, r"is a pickle, which can run any code .*read_pickle"),
        ("gas", lambda root: _pickle(root) / "ethylene_CO.pickle", r"is a pickle"),
        ("power", lambda root: _npy(root, {"a": [1]}), r"cannot read .*data\.npy: .*allow_pickle"),
        ("power", lambda root: root / "gone", r"no such file or folder: .*gone"),
        ("power", lambda root: root, r"the folder holds none of data\.npy, household_power"),
        ("power", lambda root: _npy(root, np.ones((200, 7))), r"7 columns, expected 8"),
        ("power", lambda root: _npy(root, np.ones((5, 8))), r"5 rows are too few"),
        ("power", lambda root: _npy(root, np.ones((2, 2, 2))), r"cannot read .*data\.npy: Must"),
        ("power", _nan, r"data\.npy: row 13, column 2 is missing or not finite"),
        (
            "power",
            lambda root: _text(root, "household_power_consumption.txt", "a;b\n1;2\n"),
            r"2 columns, expected 9 with ; between them",
        ),
        ("gas", lambda root: _text(root, "a.xls", "1") / "a.xls", r"type \.xls are not read here"),
        ("gas", lambda root: _text(root, "ethylene_CO.csv", "a,b\n1,2\n"), r"2 columns, exp.* 19"),
        ("gas", lambda root: _text(root, "ethylene_CO.csv", ""), r"cannot read .*: No columns"),
        ("miniboone", lambda root: _text(root, "MiniBooNE_PID.txt", "1 2 3\n"), r"the first line"),
        (
            "miniboone",
            lambda root: _text(root, "MiniBooNE_PID.txt", "200 9\n" + ("1 " * 50 + "\n") * 150),
            r"150 rows, its first line promises 200",
        ),
        ("hepmass", _no_signal, r"1000_train\.csv: no row has 1 in the first column"),
        ("hepmass", _short_test, r"the test file has fewer columns than the training file"),
        ("hepmass", lambda root: _text(root, "1000_train.csv", "a\n1\n"), r"rows are too few"),
    ],
)
def test_mistakes(tmp_path: Path, kind: str, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(f"{kind}:{make(tmp_path)}", "train")


@pytest.mark.parametrize("kind", ["power", "gas", "hepmass", "miniboone"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"has several splits, choose one of: train, validation, test"),
        ({"split": "dev"}, r"has no split 'dev'"),
        ({"split": "test", "size": 3}, r"size does not apply"),
        ({"split": "test", "revision": "main"}, r"revision does not apply"),
    ],
)
def test_settings(kind: str, settings: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "data.npy"
    file.touch()
    with pytest.raises(DataError, match=message):
        open_source(f"{kind}:{file}", **settings)  # type: ignore[arg-type]
