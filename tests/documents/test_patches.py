"""Patches against photographs searched by hand, and against a pipeline written a second time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import patches
import prepare
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patches import SIZES, cut, keyed_uniform, read
from support.image_sets import photograph, save
from torch import Tensor

from impflow_zoo.data import DataError, open_table

GREY = np.array([0.2989, 0.5870, 0.1140])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photographs() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (64, 48)] * 10
    return {
        "train": [photograph(rng, *size) for size in sizes],
        "test": [photograph(rng, *size) for size in sizes[:5]],
    }


def where(row: Tensor, photographs: list[np.ndarray]) -> list[tuple[int, int, int]]:
    """All places a row may have been cut from: the noise moves no difference by a grey value."""
    found = []
    for p, colours in enumerate(photographs):
        grey = np.rint(colours @ GREY)
        windows = np.lib.stride_tricks.sliding_window_view(grey, (8, 8)).reshape(
            *(side - 7 for side in grey.shape), 64
        )[..., :-1]
        off = 256 * row.numpy() - windows
        for top, left in np.argwhere(np.ptp(off, axis=-1) < 1):
            found.append((p, int(top), int(left)))
    return found


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_rows_are_patches_of_the_right_photographs(
    tmp_path: Path, photographs: dict[str, list[np.ndarray]], split: str
) -> None:
    folder = save(tmp_path / "photos", **photographs)
    places = []
    for row, number in zip(*read(folder, split, 60), strict=True):
        (place,) = where(row, photographs["test" if split == "test" else "train"])
        assert place[0] == number
        places.append(place)
    assert len(set(places)) > 55  # a few may coincide
    used = {place[0] for place in places}
    allowed = {"train": {*range(20)} - {9, 19}, "validation": {9, 19}, "test": {*range(5)}}[split]
    assert used <= allowed
    assert len(used) >= min(10, len(allowed))


def test_the_command_stores_the_photograph_of_each_row(
    tmp_path: Path, photographs: dict[str, list[np.ndarray]]
) -> None:
    """As its group: the rows themselves are those of `read`."""
    folder = save(tmp_path / "photos", **photographs)
    prepare.main(prepare.Name.bsds300, folder, tmp_path / "out", limit=40)
    for split in SIZES:
        rows, numbers = read(folder, split, 40)
        source = open_table(tmp_path / "out", split)
        assert source.columns == tuple(f"x{i}" for i in range(63))
        assert source.rows(range(40)).equal(rows.double())
        named = dict(zip(source.groups.tolist(), numbers.tolist(), strict=True))
        assert [named[group] for group in source.groups.tolist()] == numbers.tolist()


def test_mirror_images_are_patches_of_mirrored_photographs() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype="u1")
    photograph = torch.from_numpy(noise)
    forms = patches.mirrored(cut([photograph], 1, seed=0))
    for form, axes in zip(forms, ((), (1,), (0,)), strict=True):
        (wanted,) = cut([photograph.flip(axes)], 1, seed=0)
        assert (256 * (form - wanted)).abs().max() < 1  # the noise of a pixel moves along


def test_mirror_images_are_for_training_alone(
    tmp_path: Path, photographs: dict[str, list[np.ndarray]]
) -> None:
    folder = save(tmp_path / "photos", **photographs)
    prepare.main(prepare.Name.bsds300, folder, tmp_path / "out", limit=40, mirrored=True)
    assert [len(open_table(tmp_path / "out", split)) for split in SIZES] == [120, 40, 40]
    with pytest.raises(DataError, match="leave --mirrored out"):
        prepare.main(prepare.Name.power, folder, tmp_path / "out", mirrored=True)


def test_a_row_depends_on_its_number_and_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "AT_ONCE", 30)
    flat = [torch.zeros(15, 20, dtype=torch.uint8)]
    rows = cut(flat, 50, seed=0)
    assert (rows.shape, rows.dtype) == ((50, 63), torch.float32)
    assert cut(flat, 100, seed=0)[:50].equal(rows)
    assert not cut(flat, 50, seed=1)[0].equal(rows[0])


def test_positions_and_noise_are_uniform() -> None:
    ramp = torch.arange(20, dtype=torch.uint8).expand(15, 20) * 8
    flat = torch.zeros(15, 20, dtype=torch.uint8)
    n = 4000
    rows = cut([flat], n, seed=0) * 256
    assert float(rows.var()) == pytest.approx(63 / 64 / 12, rel=0.02)
    assert abs(float(rows.mean())) < 4 * math.sqrt(1 / 12 / (63 * n))
    # Every photograph is as likely, whatever its size: the ramp has more positions, not more rows.
    both = cut([flat[:8, :8], ramp], n, seed=0)
    on_ramp = both.abs().amax(1) > 2 / 256
    assert abs(float(on_ramp.double().mean()) - 0.5) < 4 * math.sqrt(0.25 / n)
    # One row lit: its place in the patch says where the patch was cut, 8 tops as likely each.
    lit = torch.zeros(15, 8, dtype=torch.uint8)
    lit[7] = 255
    patches = cut([lit], n, seed=0)
    tops = patches[:, :57:8].argmax(1).bincount(minlength=8)
    assert float((tops - n / 8).square().sum() / (n / 8)) < 29.9  # chi-square, 7 df, 1e-4


def gaussian(train: Tensor, test: Tensor) -> tuple[float, float]:
    fitted = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov(correction=0))
    scores = fitted.log_prob(test)
    return float(scores.mean()), float(scores.std() / math.sqrt(len(scores)))


def by_hand(photographs: list[np.ndarray], n: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    rows = []
    for p in rng.integers(len(photographs), size=n):
        grey = np.rint(photographs[p] @ GREY)
        top, left = (rng.integers(side - 7) for side in grey.shape)
        x = (grey[top : top + 8, left : left + 8].ravel() + rng.random(64)) / 256
        rows.append((x - x.mean())[:-1])
    return torch.from_numpy(np.stack(rows))


def test_gaussian_scores_as_on_patches_cut_by_hand(
    photographs: dict[str, list[np.ndarray]],
) -> None:
    def rows(part: str, size: int, seed: int) -> Tensor:
        grey = [torch.from_numpy(np.rint(p @ GREY).astype("u1")) for p in photographs[part]]
        return cut(grey, size, seed).double()

    value, stderr = gaussian(rows("train", 20_000, 0), rows("test", 8_000, 1))
    by_hand_value, by_hand_stderr = gaussian(
        by_hand(photographs["train"], 20_000, 1), by_hand(photographs["test"], 8_000, 2)
    )
    assert abs(value - by_hand_value) < 4 * math.hypot(stderr, by_hand_stderr)


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_keyed_numbers_are_splitmix64(seed: int, rows: list[int]) -> None:
    def output(i: int) -> float:
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return ((z ^ (z >> 31)) >> 11) / 2**53

    expected = [[output(row * 3 + j) for j in range(3)] for row in rows]
    assert keyed_uniform(seed, torch.tensor(rows), 3).tolist() == expected


def test_photographs_smaller_than_a_patch_are_refused() -> None:
    for photographs in ([torch.zeros(7, 9, dtype=torch.uint8)], []):
        with pytest.raises(DataError, match="photographs of at least 8x8"):
            cut(photographs, 10, seed=0)
