import numpy as np
import pytest
import torch
from PIL import Image

from elbo_core.errors import ImageReadError
from elbo_core.images import read_image, to_network_range

RED = (255, 0, 0)


def test_rgb_array_keeps_its_orientation():
    array = np.zeros((3, 5, 3), dtype=np.uint8)
    array[0, 4] = RED
    tensor = read_image(array)
    assert tensor.shape == (3, 3, 5)
    assert tensor[:, 0, 4].tolist() == [1, 0, 0]


def test_transparency_is_laid_over_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert torch.equal(read_image(tmp_path / "clear.png"), torch.ones(3, 4, 4))


def test_transparent_palette_is_laid_over_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "palette.png", transparency=0)
    assert torch.equal(read_image(tmp_path / "palette.png"), torch.ones(3, 4, 4))


def test_grey_becomes_three_equal_channels():
    tensor = read_image(np.full((2, 2), 51, dtype=np.uint8))
    assert torch.allclose(tensor, torch.full((3, 2, 2), 0.2))


def test_16_bit_grey_uses_its_full_range(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0].tolist() == [[0, 1]]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 6, 2)


def test_one_pixel_and_non_square_images_reach_the_network():
    assert to_network_range(read_image(np.zeros((1, 1, 3), np.uint8)), 32).shape == (3, 32, 32)
    ramp = read_image(np.tile(np.arange(0, 250, 5, dtype=np.uint8), (20, 1)))
    resized = to_network_range(ramp, 32)
    assert resized.shape == (3, 32, 32)
    assert (resized.diff(dim=2) > 0).all(), "a horizontal ramp stays horizontal"
    assert resized.diff(dim=1).abs().max() < 1e-5


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "broken é.png").write_bytes(b"not a picture")
    with pytest.raises(ImageReadError, match=r"broken é\.png"):
        read_image(tmp_path / "broken é.png")
    with pytest.raises(ImageReadError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png")


def test_truncated_jpeg_is_an_error(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageReadError, match=r"cut\.jpg"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4,), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_odd_arrays_are_refused(array):
    with pytest.raises(ValueError, match="uint8"):
        read_image(array)


def test_tensors_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        read_image(torch.full((3, 2, 2), 2.0))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        read_image(torch.full((3, 2, 2), torch.nan))
