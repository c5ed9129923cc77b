"""Files are called what they are by their first bytes, whatever their names say."""

import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ims3core.base.formats import disguised_as, format_of
from ims3core.data import decode


def tar():
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    return stream.getvalue()


def archive():
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as file:
        file.writestr("x", "x")
    return stream.getvalue()


def record(content=b"\n\x05hello"):
    return struct.pack("<Q", len(content)) + b"crc4" + content + b"crc4"


KINDS = {
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(20), "a MATLAB file": b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a TFRecord file": record() * 3,
    "a tar archive": tar(), "a zip archive": archive(), "a gzip archive": b"\x1f\x8b\x08", "JSON lines": b'{"a": 1}\n{"a": 2}\n', "a JSON text": b'{\n "a": 1}',
    "a text": "Bilder von Käfern\n".encode(), "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an XML text": b"<?xml version='1.0'?><annotation/>",
    "an HTML page": b"<!DOCTYPE html><html></html>", "a HEIC picture, which Pillow reads with the package pillow-heif": b"\0\0\0\x18ftypheic\0\0\0\0", "a video": b"\0\0\0\x18ftypisom",
    "a numpy array": b"\x93NUMPY\x01\0", "a Python pickle": b"\x80\x04\x95", "a parquet file": b"PAR1\x15", "a DICOM file": bytes(128) + b"DICM",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_called_what_it_is(tmp_path, name):
    """From its bytes and from a file of another name; the decoder says it of a picture that is none."""
    (tmp_path / "x.png").write_bytes(KINDS[name])
    for content in (KINDS[name], tmp_path / "x.png"):
        assert (disguised_as(content) or format_of(content)).startswith(name)
    assert decode.decode_chunk([tmp_path / "x.png"], 4, 3).problems[0].startswith(name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_a_picture_is_nothing_else(kind):
    """Whole and cut in half; `pictures` names the usual kinds."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(stream := io.BytesIO(), kind)
    for content in (stream.getvalue(), stream.getvalue()[: len(stream.getvalue()) // 2]):
        assert disguised_as(content) is format_of(content) is None
    named = format_of(stream.getvalue(), pictures=True)
    assert named == (None if kind in ("WEBP", "PPM") else f"a {kind} picture")


def test_the_package_for_heic_is_used_where_it_is_installed(monkeypatch):
    """The advice leads on: Pillow then gets the package's reader."""
    import sys
    import types

    called = []
    monkeypatch.setitem(
        sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=lambda: called.append(1))
    )
    decode._plugins.cache_clear()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(stream := io.BytesIO(), "PNG")
    decode.decode(stream.getvalue(), side=4, channels=3)
    decode._plugins.cache_clear()
    assert called == [1]
