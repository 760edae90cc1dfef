import contextlib
import hashlib
import io
import os
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from elbo_core.errors import ImageReadError
from elbo_core.images import read_image, read_label_map, to_network_range

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


PILLOW_11 = {(64, 48): "e4367cc3e45c808b", (70, 30): "6349bb74699182be", (48, 64): "c9333df4a7cac438"}


@pytest.mark.parametrize(("size", "checksum"), PILLOW_11.items())
def test_pictures_are_resized_as_by_pillow_11(size, checksum):
    """To 51 x 51, by the checksums of what Pillow 11.1 does, which the released code pins; 13 differs in portraits."""
    picture = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    resized = ((to_network_range(read_image(picture), 51) + 1) * 127.5).round().byte().permute(1, 2, 0)
    assert hashlib.sha256(resized.contiguous().numpy().tobytes()).hexdigest()[:16] == checksum


def test_pictures_of_the_right_size_are_left_alone(picture):
    square = read_image(picture[:40, :40])
    assert torch.equal(to_network_range(square, 40), 2 * square - 1)


DEEP = np.array([[0, 1], [32896, 65535]])
"""Grey in 16 bits."""


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits_of_grey_are_scaled_whatever_the_format(name, tmp_path):
    Image.fromarray(DEEP.astype(np.uint16)).save(tmp_path / name)
    assert (read_image(tmp_path / name)[0] * 255).round().tolist() == [[0, 0], [128, 255]]
    assert torch.equal(read_image(Image.fromarray(DEEP.astype(np.uint16))), read_image(tmp_path / name))


@pytest.mark.parametrize("numbers", [DEEP.astype(np.int32), DEEP.astype(np.float32), np.float32([[0, 1]])])
def test_numbers_without_a_known_white_are_refused(numbers, tmp_path):
    Image.fromarray(numbers).save(tmp_path / "deep.tif")
    with pytest.raises(ImageReadError, match=r"deep\.tif': mode [IF] has no known white; scale"):
        read_image(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=r"mode [IF] has no known white; scale"):
        read_image(Image.fromarray(numbers))


@pytest.mark.parametrize("tag", [{258: 12}, {262: 0}])
def test_a_tiff_of_twelve_bits_or_where_zero_is_white_is_refused(tag, tmp_path):
    Image.fromarray(DEEP.astype(np.uint16)).save(tmp_path / "odd.tif")
    content = bytearray((tmp_path / "odd.tif").read_bytes())
    for key, value in tag.items():
        entry = content.index(struct.pack("<HHI", key, 3, 1))
        content[entry + 8 : entry + 10] = struct.pack("<H", value)
    (tmp_path / "odd.tif").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"odd\.tif"):
        read_image(tmp_path / "odd.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_mode_of_colours_is_read(mode):
    tensor = read_image(Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode))
    assert tensor.shape == (3, 3, 4)
    assert tensor.min() > 0.98


@pytest.mark.parametrize("thing", [b"a.png", ["a.png"], 3, None, [[0, 1]], object(), io.BytesIO(b"")])
def test_what_is_no_picture_is_a_wrong_type(thing):
    with pytest.raises(TypeError, match="an image must be a file name, a PIL image"):
        read_image(thing)


@pytest.mark.parametrize("array", [
    np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 1), np.uint8), np.zeros((3, 4, 5), np.uint8),
    np.zeros((2, 4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((4, 4), bool), np.zeros((4, 4), object),
])  # fmt: skip
def test_arrays_of_other_shapes_or_numbers_are_refused(array):
    with pytest.raises(ValueError, match=r"an image array must be uint8 \[H, W\] or \[H, W, 3\|4\], got"):
        read_image(array)


def test_arrays_in_any_order_of_memory_are_read():
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    for view in (np.asfortranarray(array), array[::-1, ::-1], np.broadcast_to(array[:1], array.shape)):
        assert torch.equal(read_image(view), torch.from_numpy(view.copy()).permute(2, 0, 1) / 255)
    with pytest.raises(ValueError, match="masked"):
        read_image(np.ma.masked_equal(array, 5))


@pytest.mark.parametrize("tensor", [
    torch.zeros(3, 4, 4, dtype=torch.uint8), torch.ones(3, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4),
    torch.zeros(4, 4, 3), torch.zeros(3, 0, 4), torch.zeros(3, 4, 4, dtype=torch.complex64),
    torch.zeros(3, 4, 4, device="meta"), torch.zeros(3, 4, 4).to_sparse(), torch.zeros(3, 4, 4, requires_grad=True),
    torch.full((3, 4, 4), -0.1), torch.full((3, 4, 4), torch.inf),
])  # fmt: skip
def test_other_tensors_are_refused(tensor):
    with pytest.raises(ValueError, match="an image tensor must"):
        read_image(tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_are_copied_as_float32(dtype):
    given = torch.full((3, 2, 2), 0.5, dtype=dtype)
    read = read_image(given)
    given[:] = 1
    assert read.dtype == torch.float32
    assert (read == 0.5).all()


def test_a_pipe_is_not_waited_for_and_a_folder_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, "/dev/zero"):
        for read in (read_image, read_label_map):
            with pytest.raises(ImageReadError, match="is not a file"):
                read(path)


def test_names_that_no_file_has(tmp_path, monkeypatch):
    for name in ("", "a\0b", "x" * 5000, "https://example.org/a.png", "~nobody/a.png", "caf\udce9.png"):
        with pytest.raises(ImageReadError, match="cannot read"):
            read_image(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (2, 2)).save(tmp_path / "home.png")
    assert read_image("~/home.png").shape == (3, 2, 2)


def test_a_lazy_pil_image_whose_file_is_damaged(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(ImageReadError, match="cannot read the PIL image"):
        read_image(Image.open(tmp_path / "a.png"))
    with pytest.raises(ValueError, match="an image must have pixels, got 0 x 4"):
        read_image(Image.new("RGB", (0, 4)))


FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM", "TGA", "PCX", "ICO", "SGI", "JPEG2000", "QOI", "DDS")
SAVED = [("RGB", kind, {}) for kind in FORMATS]
SAVED += [("P", "PNG", {"transparency": 0}), ("LA", "PNG", {}), ("I;16", "TIFF", {}), ("1", "TIFF", {}),
          ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "TIFF", {"compression": "tiff_deflate"})]  # fmt: skip


@pytest.mark.parametrize(("mode", "kind", "options"), SAVED)
def test_damaged_files_are_image_errors_and_nothing_else(mode, kind, options, picture, tmp_path):
    """Cut anywhere, or with a few bytes changed; where the damage cannot be seen, pixels come out all the same."""
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(picture).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
    chance, path = random.Random(kind), tmp_path / "damaged"
    for _ in range(60):
        content = bytearray(stream.getvalue())
        for _ in range(chance.choice([1, 2, 8])):
            content[chance.randrange(min(len(content), chance.choice([64, 400, 10**6])))] = chance.randrange(256)
        path.write_bytes(content[: chance.randrange(len(content))] if chance.random() < 0.3 else content)
        for read in (read_image, read_label_map):
            with contextlib.suppress(ImageReadError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert read(path).min() >= 0


def labels_of(image: Image.Image, path, **options) -> np.ndarray:
    image.save(path, format="TIFF" if path.suffix == ".tif" else "PNG", **options)
    return read_label_map(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_labels_are_the_numbers_themselves_and_never_wrap(dtype, tmp_path):
    numbers = np.array([[0, 1], [150, 255]])
    if dtype != np.uint8:
        numbers = numbers + 256 * np.array([[0, 1], [255, 0]])
    if dtype == np.int32:
        numbers = numbers + 65536 * np.array([[0, 1], [-1, 32767]])
    labels = labels_of(Image.fromarray(numbers.astype(dtype)), tmp_path / "labels.tif")
    assert labels.tolist() == numbers.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_labels_in_a_palette_are_its_indices(bits, tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putdata([0, 1, 1, 0])
    image.putpalette([7, 7, 7, 200, 0, 0])
    assert labels_of(image, tmp_path / "labels.png", bits=bits).tolist() == [[0, 1], [1, 0]]


def test_labels_that_would_be_read_otherwise_than_stored_are_refused(tmp_path):
    """Grey of four bits, 1 for label 1: Pillow makes 17 of it."""
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0\x12"))):
        png += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (tmp_path / "four.png").write_bytes(png + b"\0\0\0\0IEND\xaeB`\x82")
    with pytest.raises(ImageReadError, match=r"four\.png': its L;4 is not read as it is stored"):
        read_label_map(tmp_path / "four.png")
    Image.new("L", (2, 2)).save(tmp_path / "lossy.png", format="JPEG")
    with pytest.raises(ImageReadError, match=r"lossy\.png"):
        read_label_map(tmp_path / "lossy.png")


@pytest.mark.parametrize("mode", ["RGB", "LA", "F", "CMYK"])
def test_colours_are_no_labels(mode, tmp_path):
    with pytest.raises(ImageReadError, match=f"it is a picture in mode {mode}, not a map of labels"):
        labels_of(Image.new(mode, (2, 2)), tmp_path / "labels.tif")


def test_pictures_as_stored(tmp_path):
    image, exif = Image.new("RGB", (6, 2)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg", upright=False).shape == (3, 2, 6)
