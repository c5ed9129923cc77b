"""A thousand damaged files of other people: the right counts, or one line; never a traceback, never another result."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save as to_safetensors

from ims3core.data.decode import decode_chunk
from ims3core.diffusion import pretrained
from ims3core.diffusion.dit import DitConfig
from ims3core.errors import Ims3Error
from ims3core.ingest import classes, readers
from ims3core.params.sections import Data

COUNT, SIDE, NAMES = 12, 8, ("ant", "bee", "cat")
LABELS = np.arange(COUNT) % len(NAMES)
SIZES = DitConfig(channels=4, side=4, patch=2, width=16, depth=2, heads=2, classes=5)


def pixels():
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


def section(source, path):
    return Data(
        source=source, name=None, path=str(path), revision=None, classes=None, side=SIDE, channels=3, storage="pixels",
        skip_unreadable=False, validation_fraction=0.1, test_fraction=0.2,
    )  # fmt: skip


def mangled(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, blanked or of another file."""
    kind, data = rng.randrange(6), bytearray(content)
    place = rng.randrange(len(data))
    if kind == 0:
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        del data[: 1 + place // 8]
    elif kind == 3:
        data[place : place + 40] = bytes(len(data[place : place + 40]))
    elif kind == 4:
        data[place:place] = data[: rng.randrange(64)]
    else:
        data = bytearray(
            rng.choice((b"<html>no</html>", b"version https://git-lfs.github.com/spec/v1\n", b"", b"\0" * 64))
        )
    return bytes(data)


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels()[0]).save(stream, kind)
    return stream.getvalue()


# Each kind: what a good file holds, its ending, and a function that reads one and says how much there is. --------------


def images(path):
    found = decode_chunk([path] * 2, SIDE, 3)
    assert found.pixels.shape == (2, 3, SIDE, SIDE)
    assert all(problem is None or (problem.isprintable() and len(problem) < 400) for problem in found.problems)
    return len(found.problems)


def listing(source):
    def read(path):
        found = readers.read(section(source, path.parent if source == "huggingface" else path))
        decoded = decode_chunk([found.items[n] for n in range(len(found.items))], SIDE, 3)
        assert set(found.labels) <= set(range(len(found.names)))
        assert len(decoded.problems) == len(found.labels) == len(found.splits)
        return len(found.labels)

    return read


def table(path):
    rows = classes.class_table(list(NAMES), str(path), trained=False)
    assert {row.name for row in rows} <= set(NAMES)
    return len(rows) <= len(NAMES)


def checkpoint(path):
    network = pretrained.read_original(path, heads=2)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    return (network.config.width, network.config.depth, network.config.classes)


def archive(**changes):
    stream = io.BytesIO()
    np.savez(stream, **{"images": pixels(), "labels": LABELS, "class_names": np.array(NAMES)} | changes)
    return stream.getvalue()


def parquet():
    import datasets

    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    rows = {"image": [{"bytes": encoded("PNG"), "path": None}] * COUNT, "label": LABELS.tolist()}
    stream = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=columns).to_parquet(stream)
    return stream.getvalue()


def weights(saved):
    width, stream = SIZES.width, torch.Generator().manual_seed(0)
    shapes = {"pos_embed": (1, 4, width), "y_embedder.embedding_table.weight": (SIZES.classes + 1, width)}
    layers = [("x_embedder.proj", (width, 4, 2, 2)), ("t_embedder.mlp.0", (width, 256)), ("t_embedder.mlp.2", (width, width)),
              ("final_layer.linear", (32, width)), ("final_layer.adaLN_modulation.1", (2 * width, width))]  # fmt: skip
    for n in range(SIZES.depth):
        layers += [(f"blocks.{n}.{name}", (times * width, wide * width)) for name, times, wide in
                   (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4), ("adaLN_modulation.1", 6, 1))]  # fmt: skip
    for name, shape in layers:
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    state = {name: torch.randn(shape, generator=stream) for name, shape in shapes.items()}
    if saved == "safetensors":
        return to_safetensors(state)
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


CSV = "folder,human_name,generator_label\nant,an ant,310\nbee,a bee,309\ncat,a cat,281\n".encode("utf-8-sig")
KINDS = {
    "png": (lambda: encoded("PNG"), "x.png", images, 2), "jpeg": (lambda: encoded("JPEG"), "x.jpg", images, 2),
    "tiff": (lambda: encoded("TIFF"), "x.tif", images, 2), "webp": (lambda: encoded("WEBP"), "x.webp", images, 2),
    "gif": (lambda: encoded("GIF"), "x.gif", images, 2),
    "npz": (archive, "x.npz", listing("npz"), COUNT), "parquet": (parquet, "train-0.parquet", listing("huggingface"), COUNT),
    "csv": (lambda: CSV, "x.csv", table, True), "pt": (lambda: weights("pt"), "x.pt", checkpoint, (16, 2, 5)),
    "safetensors": (lambda: weights("safetensors"), "x.safetensors", checkpoint, (16, 2, 5)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_damaged_files_of_each_kind(tmp_path, monkeypatch, kind):
    """Whatever is read has the counts of the good file; everything else is one line of ours that names the file."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    make, name, read, wanted = KINDS[kind]
    content, rng, refused = make(), random.Random(kind), 0
    for n in range(100):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / name).write_bytes(content if n == 0 else mangled(content, rng))
        try:
            assert read(folder / name) == wanted
        except Ims3Error as error:
            assert n > 0, error
            refused += 1
            assert name in str(error) or "data.classes" in str(error)
            assert str(error).isprintable()
    assert refused > 20 or kind in ("png", "jpeg", "tiff", "webp", "gif")


@pytest.mark.parametrize(
    "changes",
    [
        {"images": pixels().astype(kind)} for kind in (np.int8, np.int32, np.int64, np.float16, np.float64, np.complex64, bool)
    ]
    + [{"images": pixels()[part]} for part in (slice(0, 0), 0, slice(3))]
    + [{"images": pixels().reshape(shape)} for shape in ((-1,), (COUNT, -1), (COUNT, 3, SIDE, SIDE), (1, COUNT, SIDE, SIDE, 3), (COUNT, SIDE * SIDE, 3))]
    + [{"labels": LABELS.astype(kind) + shift} for kind, shift in ((np.float32, 0.5), (np.int64, -1), (np.int64, 2), (np.complex64, 0))]
    + [{"labels": labels} for labels in (LABELS[:5], LABELS[None], np.array(["a"] * COUNT), np.full(COUNT, np.nan), np.array(3))]
    + [{"class_names": np.array(names)} for names in (["a", "a", "b"], ["a"], ["..", "b", "c"], [["a", "b", "c"]], [1, 2, 3])],
)  # fmt: skip
def test_archives_of_other_types_ranks_and_ranges(tmp_path, changes):
    """Refused in one line, or every image with its label."""
    (tmp_path / "x.npz").write_bytes(archive(**changes))
    try:
        assert listing("npz")(tmp_path / "x.npz") == COUNT
        assert set(changes) == {"class_names"}
    except Ims3Error as error:
        assert "x.npz" in str(error)
        assert str(error).isprintable()
