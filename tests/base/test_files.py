"""Files: atomic writing, manifests, and every kind of damage."""

import errno
import json
import os
import resource
import stat
from contextlib import contextmanager

import pytest
import torch

from ims3core.base import files
from ims3core.base.records import Record
from ims3core.diffusion import latents
from ims3core.errors import ArtifactError
from ims3core.pipeline.workspace import Workspace


@pytest.fixture
def artifact(tmp_path):
    files.write_tensors(tmp_path / "a/x.safetensors", {"x": torch.arange(100)})
    files.write_json(tmp_path / "a/y.json", {"b": 1})
    files.write_manifest(tmp_path / "a", "thing", count=3)
    return tmp_path / "a"


def test_a_complete_artifact_returns_its_facts(artifact):
    """read_manifest gives back what was written."""
    assert files.read_manifest(artifact, "thing") == {"count": 3}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "x.safetensors").unlink(), r"x\.safetensors: listed in the manifest but missing"),
        (lambda d: os.truncate(d / "x.safetensors", 50), r"x\.safetensors: found 50 bytes, the manifest says"),
        (lambda d: (d / "y.json").write_text('{\n "b": 2\n}\n'), r"y\.json: content differs"),
        (lambda d: (d / "manifest.json").unlink(), r"manifest\.json: no such file"),
        (lambda d: (d / "manifest.json").write_text("{"), r"manifest\.json: not valid JSON"),
    ],
    ids=["missing", "truncated", "changed", "no-manifest", "broken-manifest"],
)
def test_damage_is_named(artifact, damage, message):
    """The error holds the path of the culprit."""
    damage(artifact)

    with pytest.raises(ArtifactError, match=message):
        files.read_manifest(artifact, "thing")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format"', '"fgrmat"', "format: missing"),
        ('"format": 1', '"format": 3', "format: found 3, input should be 1"),
        ('"files"', '"filus"', "files: missing"),
        ('"size"', '"skze"', r"files\.x\.safetensors\.size: missing"),
        ('"sha256": "', '"sha256": "x', r"files\.x\.safetensors\.sha256: found 'x.*string should match pattern"),
    ],
)
def test_a_damaged_key_is_named(artifact, old, new, message):
    """Never a KeyError: the file, the key and what was found."""
    path = artifact / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ArtifactError, match=f"^{path}: {message}.*; run `dvc repro`$"):
        files.read_manifest(artifact, "thing")


def test_a_key_that_nobody_wrote_is_named(artifact):
    """A flipped bit of an optional key makes another one, which is refused too."""

    class Facts(Record):
        count: int
        phase: int | None = None

    assert files.read_manifest(artifact, "thing", Facts) == Facts(count=3)
    files.write_manifest(artifact, "thing", count=3, phasd=1)
    with pytest.raises(ArtifactError, match=r"manifest\.json: facts\.phasd: unknown key \(found value 1\)"):
        files.read_manifest(artifact, "thing", Facts)


def test_one_file_is_compared_with_the_manifest_beside_it(artifact):
    """Listed and equal it is returned; changed, cut, gone or not listed it is named; no manifest promises nothing."""
    path = artifact / "y.json"
    assert files.checked(path) == path
    (artifact / "new.json").write_text("1")
    with pytest.raises(ArtifactError, match=r"manifest\.json: does not list new\.json"):
        files.checked(artifact / "new.json")
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(ArtifactError, match=r"y\.json: content differs"):
        files.checked(path)
    (artifact / "manifest.json").unlink()
    assert files.checked(path) == path


class Row(Record):
    name: str
    count: int
    share: float | None = None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,count,share\na,1,0.5\nb,x,\n", r"line 3\.count: found 'x', input should be a valid integer"),
        ("name,count,share\na,,0.5\n", r"line 2\.count: missing"),
        ("name,count,share\na,1,0.5\nb,2\n", "line 3: found 2 cells, wanted 3"),
        ("name,count,share\na,1,0.5", "cut short: its last line has no end"),
        ("name,count\na,1\n", r"columns \['name', 'count'\], wanted \['name', 'count', 'share'\]"),
        ("", "cut short"),
        ("name,c\xffunt,share\n", "not a table .*utf-8"),
    ],
    ids=["type", "empty", "short", "cut", "columns", "nothing", "no text"],
)
def test_a_damaged_table_is_named(tmp_path, text, message):
    """File, line, column and what was found."""
    path = tmp_path / "t.csv"
    files.write_csv(path, list(Row.model_fields), [("a", 1, 0.5), ("b", 2, None)])
    assert files.read_table(path, Row) == [Row(name="a", count=1, share=0.5), Row(name="b", count=2)]
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=f"^{path}: .*{message}.*; run `dvc repro`$"):
        files.read_table(path, Row)


def test_a_table_whose_rows_end_in_an_error_leaves_what_was_there(tmp_path):
    """Rows are written as they come; the file is replaced when all of them are."""

    def rows():
        yield ("b", 2, None)
        raise ValueError("no more")

    path = tmp_path / "t.csv"
    files.write_csv(path, list(Row.model_fields), [("a", 1, 0.5)])
    with pytest.raises(ValueError, match="no more"):
        files.write_csv(path, list(Row.model_fields), rows())
    assert path.read_text() == "name,count,share\na,1,0.5\n"
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_json_keeps_every_number_and_the_order_of_keys(tmp_path):
    """Shortest exact forms come back as the same doubles, whole numbers whole."""
    value = {"z": [0.1, 1e-300, 2**53 + 1, 3, 1 / 3, -0.0], "a": None}
    files.write_bytes(tmp_path / "v.json", json.dumps(value).encode())
    found = files.read_json(tmp_path / "v.json")
    assert json.dumps(found) == json.dumps(value)


def test_an_artifact_of_another_kind_is_refused(artifact):
    """Both kinds are in the message."""
    with pytest.raises(ArtifactError, match="found a 'thing' artifact, wanted 'pool'"):
        files.read_manifest(artifact, "pool")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """If writing fails half-way, the previous content is still there and no temporary file is left."""
    path = tmp_path / "f.json"
    files.write_json(path, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, 2)

    assert files.read_json(path) == 1
    assert os.listdir(tmp_path) == ["f.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_can_be_read_by_whom_the_umask_says(tmp_path, umask, mode):
    """Also those of a library that makes its own, and one that stood there with other rights."""
    path = tmp_path / "y.json"
    path.touch(0o640)
    before = os.umask(umask)
    try:
        files.write_tensors(tmp_path / "x.safetensors", {"x": torch.arange(3)})
        files.write_json(path, 1)
        files.write_csv(tmp_path / "z.csv", ["a"], [[1]])
    finally:
        os.umask(before)
    assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {mode}


@contextmanager
def no_room():
    """Files of this process cannot grow beyond 4 KiB: as on a full disk, whoever writes says no name.

    No fixture, which would hold while pytest prints the outcome: its output may be a file that is longer than that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_room_for_a_mapped_file_is_taken_before_it_is_written(tmp_path, monkeypatch):
    """Writing to a page of one on a full disk is SIGBUS, which no handler names."""

    def full(descriptor, offset, length):
        assert offset == 0 and length == os.fstat(descriptor).st_size
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError) as caught:
        latents._mapped(tmp_path / "mean.npy", (3, 2))
    assert caught.value.filename == str(tmp_path / "mean.npy")


@pytest.mark.parametrize("kind", ["bytes", "tensors", "latents", "unit"])
def test_what_has_no_room_is_named(tmp_path, kind):
    """By the path that is asked for; nothing half-written is left, and no write kills the process."""
    path = tmp_path / {"unit": ".unit.part", "latents": "mean.npy"}.get(kind, "f.bin")
    with pytest.raises(OSError) as caught, no_room():
        if kind == "bytes":
            files.write_bytes(path, bytes(5000))
        elif kind == "tensors":
            files.write_tensors(path, {"x": torch.zeros(5000)})
        elif kind == "latents":
            files.write_tensors(tmp_path / "p" / latents.piece_name(0), {n: torch.zeros(1, 4) for n in ("mean", "std")})
            latents.join(tmp_path / "p", tmp_path, [(0, slice(0, 1))], torch.zeros(3000, dtype=torch.long), variants=1)
        else:
            with Workspace(tmp_path, "tag", already_published=False).making("unit") as part:
                part.write_bytes(bytes(5000))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    if kind in ("bytes", "tensors"):
        assert os.listdir(tmp_path) == []


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    """The target holds the new files only; leftovers of an interrupted replacement are cleared."""
    for name, content in (("new", "n"), ("target", "t"), (".target.old", "o")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text(content)

    files.replace_directory(tmp_path / "new", tmp_path / "target")

    assert sorted(os.listdir(tmp_path)) == ["target"]
    assert os.listdir(tmp_path / "target") == ["n"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_keeps_every_pixel(tmp_path, channels):
    """Grey and colour images survive the round trip, and equal images are equal bytes."""
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    data = files.png_bytes(image)

    assert (files.png_pixels(data, tmp_path / "i.png") == image.numpy()).all()
    assert files.png_bytes(image) == files.png_bytes(image.clone())


def test_unreadable_files_are_named(tmp_path):
    """PNG, tensors and digest of a missing or foreign file."""
    with pytest.raises(ArtifactError, match=r"i\.png: not a readable PNG \(cannot identify image file _io.BytesIO\)"):
        files.png_pixels(b"no", tmp_path / "i.png")
    with pytest.raises(ArtifactError, match=r"i\.png: no such file"):
        files.read_bytes(tmp_path / "i.png")
    with pytest.raises(ArtifactError, match=r"t\.safetensors: no such file"):
        files.read_tensors(tmp_path / "t.safetensors")
    (tmp_path / "t.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(ArtifactError, match="not a complete safetensors file"):
        files.read_tensors(tmp_path / "t.safetensors")
    with pytest.raises(ArtifactError, match=r"manifest\.json: no such file"):
        files.manifest_digest(tmp_path)
