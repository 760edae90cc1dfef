"""Against SciPy's writer and reader, on sound files; on damaged ones SciPy itself may crash."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from elbo_core.datasets.matlab import read_table


def saved(compressed: bool = False, **variables) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables, do_compression=compressed)
    return stream.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?"])
def test_tables_equal_scipys(dtype, compressed):
    for shape in ((1, 1), (1, 2), (3, 5), (24, 33)):
        table = np.random.default_rng(0).integers(2, size=shape).astype(dtype)
        content = saved(compressed, other=np.arange(3.0), LabelMap=table)
        found = read_table(content, "LabelMap")
        assert np.array_equal(found, loadmat(io.BytesIO(content))["LabelMap"])
        assert found.shape == shape


def test_big_endian_files():
    parts = [struct.pack(">IIII", 6, 8, 11, 0), struct.pack(">IIii", 5, 8, 2, 1), struct.pack(">HH4s", 1, 1, b"M"),
             struct.pack(">IIHH4x", 4, 4, 3, 500)]  # fmt: skip
    content = b"x" * 124 + struct.pack(">H2s", 0x0100, b"MI")
    content += struct.pack(">II", 14, sum(map(len, parts))) + b"".join(parts)
    assert read_table(content, "M").tolist() == loadmat(io.BytesIO(content))["M"].tolist() == [[3], [500]]


@pytest.mark.parametrize("variable", [np.ones((2, 2)) * 1j, np.ones((2, 2, 2)), np.zeros((0, 3)), "text", {"a": 1},
                                      np.array([[1, "a"]], object)])  # fmt: skip
def test_what_is_no_table_of_real_numbers(variable):
    with pytest.raises(ValueError, match=r"LabelMap|variable"):
        read_table(saved(LabelMap=variable), "LabelMap")


def test_other_variables_and_other_levels():
    with pytest.raises(ValueError, match="it has no variable LabelMap"):
        read_table(saved(Label=np.ones((2, 2))), "LabelMap")
    for content in (b"", b"no MATLAB file" * 20, b"\x89HDF\r\n\x1a\n" + bytes(600)):
        with pytest.raises(ValueError, match="it is no MATLAB file of level 5"):
            read_table(content, "LabelMap")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_raise_what_is_stated(compressed):
    whole, chance = saved(compressed, LabelMap=np.arange(60, dtype=np.uint16).reshape(6, 10)), random.Random(0)
    for _ in range(3000):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 2, 5])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        cut = chance.randrange(len(content)) if chance.random() < 0.2 else len(content)
        with contextlib.suppress(KeyError, ValueError, StopIteration, struct.error, zlib.error):
            assert read_table(bytes(content[:cut]), "LabelMap").ndim == 2
