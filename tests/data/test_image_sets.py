"""Sets of images: rows as pixels, crops, sizes and colours, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_sets import image_set, pictures

from impflow_zoo.data import DataError, ImageFormat, ImageSource


def test_rows_are_the_pixels_of_the_column_of_images(tmp_path: Path) -> None:
    arrays = pictures(5)
    data = image_set(tmp_path, arrays, label=[0] * 5)
    source = ImageSource.open(data, None, ImageFormat(3, (8, 8)))
    assert len(source) == 5
    rows = source.rows([3, 0, 3])
    assert rows.dtype == torch.uint8
    for row, i in zip(rows, (3, 0, 3), strict=True):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), arrays[i])
    rows.zero_()
    assert int(source.rows([3]).max()) > 0  # the caller got a copy


def test_crop_resize_and_grey(tmp_path: Path) -> None:
    array = np.zeros((10, 8, 3), dtype=np.uint8)
    array[2:8, 1:7] = 200  # the middle 6x6
    form = ImageFormat(1, (3, 3), crop=6, resize=True, grey=True)
    row = ImageSource.open(image_set(tmp_path, [array]), None, form).rows([0])
    assert row.shape == (1, 1, 3, 3)
    assert bool((row == 200).all())


def test_grey_images_among_colours_turn_into_colours_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    colours, grey = pictures(1)[0], pictures(1, (8, 8))[0]
    form = ImageFormat(3, (8, 8), grey=True)
    rows = ImageSource.open(image_set(tmp_path, [colours, grey]), None, form).rows([0, 1])
    assert np.array_equal(rows[0].permute(1, 2, 0).numpy(), colours)
    assert all(np.array_equal(plane.numpy(), grey) for plane in rows[1])


REFUSED = {
    "size": (pictures(1, (9, 8, 3)), ImageFormat(3, (8, 8)), "row 0 is 9x8, .*takes 8x8"),
    "grey": (pictures(1, (8, 8)), ImageFormat(3, (8, 8)), "takes colours: set prepare.grey"),
    "colour": (pictures(1), ImageFormat(1, (8, 8)), "set prepare.grey"),
    "crop": (pictures(1), ImageFormat(3, (8, 8), crop=9), "crop=9 is larger"),
    "corrupt": ([*pictures(2), b"\x89PNG broken"], ImageFormat(3, (8, 8)), "image of row 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    arrays, form, message = REFUSED[name]
    source = ImageSource.open(image_set(tmp_path, arrays), None, form)
    with pytest.raises(DataError, match=message):
        source.rows(range(len(source)))


def test_pictures_behind_a_link_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, array in enumerate(pictures(3)):
        Image.fromarray(array).save(folder / f"{number}.png")
    (tmp_path / "link").symlink_to(folder)
    source = ImageSource.open(str(tmp_path / "link"), None, ImageFormat(3, (8, 8)))
    assert np.array_equal(source.rows([2])[0].permute(1, 2, 0).numpy(), pictures(3)[2])


def test_a_set_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column of images"):
        ImageSource.open(str(tmp_path / "test.csv"), None, ImageFormat(3, (8, 8)))
