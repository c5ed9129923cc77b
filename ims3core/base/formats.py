"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

import json
from pathlib import Path

HEAD = 1024  # bytes that are looked at
SIGNATURES = {
    (0, b"PAR1"): "a parquet file", (0, b"ARROW1"): "an Arrow file", (0, b"\x89HDF\r\n"): "an HDF5 file",
    (0, b"MATLAB 7.3"): "a MATLAB file (HDF5)", (0, b"MATLAB 5.0"): "a MATLAB file",
    (0, b"PK\x03\x04"): "a zip archive", (0, b"PK\x05\x06"): "an empty zip archive", (257, b"ustar"): "a tar archive",
    (0, b"\x1f\x8b"): "a gzip archive", (0, b"BZh"): "a bzip2 archive", (0, b"\xfd7zXZ\0"): "an xz archive",
    (0, b"7z\xbc\xaf'\x1c"): "a 7z archive", (0, b"Rar!\x1a\x07"): "a RAR archive",
    (0, b"(\xb5/\xfd"): "a zstd archive",
    (0, b"\x93NUMPY"): "a numpy array", (0, b"\x80\x02"): "a Python pickle", (0, b"\x80\x03"): "a Python pickle",
    (0, b"\x80\x04"): "a Python pickle", (0, b"\x80\x05"): "a Python pickle", (0, b"%PDF"): "a PDF document",
    (0, b"SQLite format 3\0"): "an SQLite database", (128, b"DICM"): "a DICOM file", (344, b"n+1\0"): "a NIfTI volume",
    (0, b"\x1aE\xdf\xa3"): "a video", (8, b"AVI "): "a video",
    (0, b"\xff\x0a"): "a JPEG XL picture, which Pillow does not read",
    (0, b"\0\0\0\x0cJXL "): "a JPEG XL picture, which Pillow does not read",
}  # fmt: skip
PICTURES = {b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture",
            b"BM": "a BMP picture", b"II*\0": "a TIFF picture", b"MM\0*": "a TIFF picture"}  # fmt: skip
HEIC = ("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1")


def disguised_as(content: Path | bytes) -> str | None:
    """What a file is instead of data: a pointer, a page, nothing; None: no such sign."""
    head, _ = _head(content)
    start = head.lstrip()[:15].lower()
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file (`git lfs pull` fetches it)"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in head):
        return "an SVG drawing, of lines instead of pixels; wanted it exported as PNG"
    if start.startswith((b"<!doctype", b"<html")) or (start.startswith(b"<?xml") and b"<html" in head):
        return "an HTML page, not the file (a download that went to an error or login page)"
    if start.startswith(b"<?xml"):
        return "an XML text, not the file (an annotation, or the error of a download)"
    return None


def format_of(content: Path | bytes, *, pictures: bool = False) -> str | None:
    """The format of a file that is not what was wanted; None where its first bytes do not tell.

    Args:
        content: a file, or its bytes.
        pictures: also name the usual formats of pictures.
    """
    head, size = _head(content)
    for (place, sign), name in SIGNATURES.items():
        if head[place : place + len(sign)] == sign:
            return name
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("latin-1")
        if brand in HEIC:
            return "a HEIC picture, which Pillow reads with the package pillow-heif (`pip install pillow-heif`)"
        return "an AVIF picture, which Pillow reads from version 11.3 on" if brand == "avif" else "a video"
    if pictures and (name := next((name for sign, name in PICTURES.items() if head.startswith(sign)), "")):
        return name
    length = int.from_bytes(head[:8], "little")  # of the first record; then its checksum and an Example, field 1
    if size >= 17 and 0 < length <= size - 16 and head[12:13] == b"\n":
        return "a TFRecord file"
    return _text(head)


def _text(head: bytes) -> str | None:
    """Which kind of text, where it is one."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < HEAD:
            return None
        text = head[: error.start].decode("utf-8-sig")
    if not text.strip() or not all(c.isprintable() or c.isspace() for c in text):
        return None
    if not text.lstrip().startswith(("{", "[")):
        return "a text"
    try:
        json.loads(text.lstrip().split("\n")[0])
    except ValueError:
        return "a JSON text"
    return "JSON lines" if text.strip().count("\n") else "a JSON text"


def _head(content: Path | bytes) -> tuple[bytes, int]:
    """The first bytes and the size."""
    if isinstance(content, bytes):
        return content[:HEAD], len(content)
    with content.open("rb") as stream:
        return stream.read(HEAD), content.stat().st_size
