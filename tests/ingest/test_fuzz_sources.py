"""Seeded: tables, class-label metadata, archives and folders of other people, damaged and rearranged.

Whatever is read is what the good one holds; everything else is one line; never a traceback, never another label. With
tests/data/test_fuzz.py these are more than 2,000 cases.
"""

import io
import json
import random
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from ims3core.errors import LONGEST, DataError
from ims3core.ingest.listing import ROLES

NAMES = ("ant", "bee", "cat")
ROWS = {f"{n:02d}": NAMES[n % 3] for n in range(12)}
LABELS = np.arange(12) % 3


def mangled(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, blanked or doubled."""
    data, place = bytearray(content), rng.randrange(len(content))
    kind = rng.randrange(5)
    if kind == 0:
        for _ in range(rng.choice((1, 2, 9))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        del data[place : place + rng.randrange(30)]
    elif kind == 3:
        data[place : place + 8] = bytes(rng.choice((0, 10, 32, 34, 44)) for _ in data[place : place + 8])
    else:
        data[place:place] = data[rng.randrange(len(data)) :][:40]
    return bytes(data)


def attempt(read, *arguments, **keys):
    """The listing, or None after a refusal in one line."""
    try:
        return read(*arguments, **keys)
    except DataError as error:
        assert str(error).isprintable() and len(str(error)) <= LONGEST
        assert str(error).startswith("data")
        return None


def labelled(found):
    return {re.split(r"[/.]", o)[-2]: found.names[k] for o, k in zip(found.origins, found.labels, strict=True)}


FORMATS = {
    "csv": lambda rows: "".join(f"{a},{b},{c}\n" for a, b, c in [("file_name", "label", "width"), *rows]),
    "tsv": lambda rows: "".join(f"{a}\t{b}\t{c}\n" for a, b, c in [("file_name", "label", "width"), *rows]),
    "jsonl": lambda rows: "".join(json.dumps({"file_name": a, "label": b, "width": c}) + "\n" for a, b, c in rows),
    "json": lambda rows: "[" + ",\n".join(json.dumps({"file_name": a, "label": b, "width": c}) for a, b, c in rows) + "]\n",
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_tables(draw, read, ending):
    """A line that is whole gives its label, or the table is refused; 600 cases."""
    root = draw(*(f"images/{n}.png" for n in ROWS))
    good, rng, seen = FORMATS[ending]([(f"{n}.png", k, 6) for n, k in ROWS.items()]).encode(), random.Random(ending), 0
    for case in range(150):
        content = good if case == 0 else mangled(good, rng)
        (root / f"labels.{ending}").write_bytes(content)
        found = attempt(read, "imagefolder", root, table=f"labels.{ending}")
        if found is None:
            assert case > 0
            continue
        whole = set(content.splitlines()) & set(good.splitlines())
        labels, seen = labelled(found), seen + 1
        for line in whole:
            name = next((n for n in labels if f"{n}.png".encode() in line), None)
            assert name is None or labels[name] == ROWS[name]
    assert 5 < seen < 150


def spelled(rng: random.Random) -> tuple[str, bytes]:
    """A table that says the same in another way, or with less: its ending and content."""
    names, rows = ["file_name", "label", "width"], [[f"{n}.png", k, "6"] for n, k in ROWS.items()]
    front = rng.choice(("", "./", "images/", "/srv/x/images/", "images\\"))
    ending = rng.choice((".png", ".PNG", ""))
    rows = [[front + row[0].removesuffix(".png") + ending, *row[1:]] for row in rows]
    if rng.random() < 0.3:
        names = [rng.choice(("img", "x", "id")), rng.choice(("class", "breed", "LABEL")), "width"]
    if rng.random() < 0.5:  # the column that is no label goes
        names, rows = names[:2], [row[:2] for row in rows]
    if rng.random() < 0.3:
        names, rows = names[::-1], [row[::-1] for row in rows]
    rng.shuffle(rows)
    rows = rows[: rng.choice((12, 12, 12, 9))] + rows[: rng.choice((0, 0, 2))]
    if rng.random() < 0.2:
        return "jsonl", "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows).encode()
    mark, quote = rng.choice(",;\t"), rng.choice(("", '"'))
    header = [names] if ending == "" or rng.random() < 0.9 else []
    lines = [mark.join(quote + cell + quote for cell in row) for row in [*header, *rows]]
    for _ in range(rng.choice((0, 0, 3))):
        lines.insert(rng.randrange(len(lines)), mark * rng.randrange(3))
    text = rng.choice(("\n", "\r\n")).join(lines) + "\n"
    return "csv", text.encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))


def test_tables_that_say_the_same_otherwise(draw, read):
    """Encodings, separators, quotes, orders, fronts and endings: every row that is there, or a refusal; 300 cases."""
    root, rng, seen = draw(*(f"images/{n}.png" for n in ROWS)), random.Random(0), 0
    for _ in range(300):
        ending, content = spelled(rng)
        table = root / f"labels.{ending}"
        table.write_bytes(content)
        found = attempt(read, rng.choice(("imagefolder", "huggingface")), root)
        if found is not None:
            assert labelled(found).items() <= ROWS.items()
            assert len(found.labels) in (9, 12)
            assert len(found.labels) == 12 or found.warnings[0].startswith("3 pictures have no row")
            seen += 1
        table.unlink()
    assert seen > 250


def renamed(metadata: bytes, rng: random.Random) -> bytes:
    """Other class names: fewer, more, double, numbers, none, in another form."""
    tree = json.loads(metadata)
    tree["info"]["features"]["label"] |= rng.choice((
        {"names": list(NAMES[:2])}, {"names": [*NAMES, "dog"]}, {"names": ["ant", "ant", "cat"]}, {"names": [0, 1, 2]}, {"names": None},
        {"names": {"0": "ant", "1": "bee", "2": "cat"}}, {"names": ["../x", "", "y/z"]}, {"names": ["\n", "b", "c"]}, {"_type": "Value", "dtype": "int64"},
        {"num_classes": 2}, {"names": ["a" * 900, "b", "c"]}, {"names": list("cab")},
    ))  # fmt: skip
    return json.dumps(tree).encode()


@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_of_class_labels(tmp_path, read, monkeypatch):
    """The JSON in a parquet file that names its classes: the same pictures are one class, or a line; 100 cases."""
    import datasets
    import pyarrow.parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    Image.new("RGB", (6, 6)).save(stream := io.BytesIO(), "PNG")
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    rows = {"image": [{"bytes": stream.getvalue(), "path": None}] * 12, "label": LABELS.tolist()}
    (tmp_path / "x").mkdir()
    datasets.Dataset.from_dict(rows, features=columns).to_parquet(tmp_path / "good.parquet")
    whole, rng, seen = pyarrow.parquet.read_table(tmp_path / "good.parquet"), random.Random(1), 0
    good = whole.schema.metadata[b"huggingface"]
    for case in range(100):
        metadata = good if case == 0 else (mangled if case % 3 == 0 else renamed)(good, rng)
        pyarrow.parquet.write_table(
            whole.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "x/train-0.parquet"
        )
        found = attempt(read, "huggingface", tmp_path / "x")
        assert case > 0 or found.names == list(NAMES)
        if found is not None:
            assert found.labels.tolist() == LABELS.tolist()
            assert len(set(found.names)) == len(found.names) >= 3
            seen += 1
    assert 5 < seen < 100


def archive(rng: random.Random, arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as another program packs them."""
    arrays = dict(rng.sample(sorted(arrays.items()), len(arrays) - (rng.random() < 0.1)))
    with zipfile.ZipFile(stream := io.BytesIO(), "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as file:
        for name, array in arrays.items():
            if rng.random() < 0.2 and name != "class_names":
                array = array.astype(rng.choice((">i8", "<u4", "<f4", "|O", "|u1", ">u2")))
            array = np.asfortranarray(array) if rng.random() < 0.3 else array
            np.lib.format.write_array(content := io.BytesIO(), array[::1], allow_pickle=True)
            file.writestr(rng.choice((f"{name}.npy", f"{name}.npy", name, f"x/{name}.npy")), content.getvalue())
        if rng.random() < 0.2:
            file.writestr(rng.choice(("README.txt", "images", "extra.npy")), b"words")
    return mangled(stream.getvalue(), rng) if rng.random() < 0.3 else stream.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_archives_packed_by_other_programs(tmp_path, read):
    """Orders, compressions, types and strangers in an npz: the pixels with their labels, or a line; 200 cases."""
    rng, seen = random.Random(2), 0
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    for _ in range(200):
        (tmp_path / "x.npz").write_bytes(
            archive(rng, {"images": pixels, "labels": LABELS, "class_names": np.array(NAMES)})
        )
        found = attempt(read, "npz", tmp_path / "x.npz")
        if found is not None:
            assert np.array_equal(found.items, pixels)
            assert found.labels.tolist() == LABELS.tolist()
            assert found.names in (list(NAMES), ["0", "1", "2"])
            seen += 1
    assert seen > 30


TOPS = ("train", "test", "val", "Train", "a", "b", "seg_train", "seg_test", "images", "x y")
BELOW = ("a", "b", "deep", ".hidden", "train")


def test_trees_of_folders(tmp_path, read):
    """Random folders: every picture has the label of its folder or is counted in a line, or all is refused; 300 cases."""
    rng, seen = random.Random(3), 0
    Image.new("RGB", (6, 6)).save(stream := io.BytesIO(), "PNG")
    for case in range(300):
        root = tmp_path / str(case)
        for _ in range(rng.randrange(1, 7)):
            place = root.joinpath(*[rng.choice(TOPS), *rng.choices(BELOW, k=rng.randrange(3))][: rng.randrange(4)])
            place.mkdir(parents=True, exist_ok=True)
            for n in range(rng.randrange(3)):
                (place / f"{n}.png").write_bytes(stream.getvalue())
        files = {path.relative_to(root) for path in root.rglob("*.png")}
        visible = {path for path in files if not any(part.startswith(".") for part in path.parts)}
        found = attempt(read, "imagefolder", root)
        if found is None:
            continue
        seen += 1
        tops = {path.relative_to(root).parts[0] for path in root.iterdir() if path.is_dir()}
        depth = int(all(top.lower() in ROLES for top in tops))  # the folder that is the class
        for origin, label, split in zip(found.origins, found.labels, found.splits, strict=True):
            parts = origin.split("/")
            assert found.names[label] == parts[depth]
            assert not depth or split in ("all", "test", ROLES[parts[0].lower()])
        told = sum(int(line.split(": ")[1].split()[0]) for line in found.warnings if "are left out" in line)
        assert len(found.origins) == len(set(found.origins)) == len(visible) - told
    assert seen > 50
