"""Data sources: every kind of storage becomes the same images, and what is wrong is named."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from ims3core import data
from ims3core.data.decode import decode, decode_chunk
from ims3core.errors import DataError
from ims3core.ingest import folders, prepare, readers
from ims3core.ingest.listing import Listing
from ims3core.params.sections import Data

NAMES = ("ant", "bee", "cat")


def pixels(count=12, side=6, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def section(source, path, name=None, **keys):
    given = {
        "source": source, "name": name, "path": str(path) if path else None, "revision": None, "classes": None,
        "side": 6, "channels": 3, "storage": "pixels", "skip_unreadable": False, "validation_fraction": 0.1,
        "test_fraction": 0.2,
    }  # fmt: skip
    return Data(**given | keys)


def load(source, path, name=None, **keys):
    return readers.read(section(source, path, name, **keys))


def decoded(listing, tmp_path, side=6, channels=3, **options):
    options = {"workers": 1, "skip_unreadable": False, **options}
    digests, readable, _ = prepare.decode_listing(
        listing, tmp_path / "x" / "all.npy", side=side, channels=channels, **options
    )
    return np.load(tmp_path / "x" / "all.npy"), digests, readable


@pytest.fixture
def folder(tmp_path):
    """``root/<split>/<class>/<n>.png``: 3 classes x 4 images, the last of each in test; and the pixels."""
    images = pixels()
    for n, image in enumerate(images):
        split = "test" if n % 4 == 3 else "train"
        place = tmp_path / "root" / split / NAMES[n // 4]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{n:02d}.png")
    return tmp_path / "root", images


def test_digits_are_complete():
    """1,797 images of 8x8 pixels in 10 classes, full range."""
    listing = load("digits", "")
    assert listing.items.shape == (1797, 8, 8)
    assert (listing.items.min(), listing.items.max()) == (0, 255)
    assert listing.names == [str(n) for n in range(10)]
    assert set(listing.splits) == {"all"}


@pytest.mark.filterwarnings("ignore")
def test_one_data_set_four_ways_gives_the_same_pixels(folder, tmp_path):
    """Image folder, npz, parquet and torchvision's file format hold the same images; so do we."""
    root, images = folder
    test = np.arange(12) % 4 == 3
    labels = np.repeat(np.arange(3), 4)
    np.savez(
        tmp_path / "a.npz", train_images=images[~test], train_labels=labels[~test, None], test_images=images[test],
        test_labels=labels[test], class_names=np.array(NAMES),
    )  # fmt: skip
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    (tmp_path / "hf").mkdir()
    for split, mask in (("train", ~test), ("test", test)):
        rows = {"image": [Image.fromarray(x) for x in images[mask]], "label": labels[mask].tolist()}
        features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(NAMES))})
        Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "hf" / f"{split}-00000.parquet"))

    found = {}
    for source, path in (("imagefolder", root), ("npz", tmp_path / "a.npz"), ("huggingface", tmp_path / "hf")):
        listing = load(source, path)
        stored, digests, _ = decoded(listing, tmp_path)
        rows = sorted(zip(listing.splits, listing.labels.tolist(), digests, strict=True))
        found[source] = (listing.names, rows, sorted(map(bytes, stored)))
    assert found["imagefolder"] == found["npz"] == found["huggingface"]
    assert found["npz"][0] == list(NAMES)


def test_torchvision_reads_local_files_without_a_network(tmp_path):
    """The original idx files of Fashion-MNIST under data.path are enough; names become folder names."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = pixels(side=28, channels=1)[..., 0]
    for part, rows in (("train", images[:10]), ("t10k", images[10:])):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, len(rows), 28, 28) + rows.tobytes())
        labels = bytes(range(len(rows)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(rows)) + labels)

    listing = load("torchvision", tmp_path, name="FashionMNIST")

    assert np.array_equal(listing.items, images)
    assert listing.splits == ["train"] * 10 + ["test"] * 2
    assert listing.names[0] == "T-shirt_top"


def test_without_files_and_network_torchvision_says_what_to_get(tmp_path, monkeypatch):
    """One line with the call that downloads them elsewhere."""
    from torchvision import datasets

    def offline(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(datasets, "FashionMNIST", offline)
    with pytest.raises(
        DataError, match=r"no complete FashionMNIST .* torchvision\.datasets\.FashionMNIST\(.*download=True"
    ):
        load("torchvision", tmp_path, name="FashionMNIST")


def test_every_kind_of_picture_file_is_read(tmp_path):
    """Grey, palette, RGBA, CMYK, 16 bit, EXIF rotation, odd extensions and non-ASCII names; each against its pixels."""
    colour = pixels(1, side=8)[0]
    picture = Image.fromarray(colour)
    place = tmp_path / "root" / "Käfer"
    place.mkdir(parents=True)
    picture.save(place / "a.bmp")
    picture.convert("L").save(place / "b.png")
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(place / "c.gif")
    rgba = picture.convert("RGBA")
    rgba.putalpha(7)
    rgba.save(place / "d.png")
    picture.convert("CMYK").save(place / "e.tiff")
    Image.fromarray((colour[..., 0].astype(np.uint16) << 8) + 99).save(place / "f.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(place / "g.PnG", exif=exif)
    (place / "bild ü.picture").write_bytes((place / "a.bmp").read_bytes())
    (place / ".hidden").write_text("not an image")
    (place / "Thumbs.db").write_text("nor this")

    listing = load("imagefolder", tmp_path / "root")
    stored, _, _ = decoded(listing, tmp_path, side=8)
    got = {name.rsplit("/")[-1]: image.transpose(1, 2, 0) for name, image in zip(listing.origins, stored, strict=True)}

    assert len(got) == 8
    for name in ("a.bmp", "d.png", "bild ü.picture"):
        assert np.array_equal(got[name], colour), name
    assert np.array_equal(got["b.png"], np.asarray(picture.convert("L").convert("RGB")))
    assert np.array_equal(got["e.tiff"], np.asarray(picture.convert("CMYK").convert("RGB")))
    assert np.array_equal(got["f.png"], np.repeat(colour[..., :1], 3, axis=2))
    assert np.array_equal(got["g.PnG"], np.rot90(colour, -1))
    assert np.abs(got["c.gif"].astype(int) - colour).mean() < 40


def test_sixteen_bit_arrays_are_scaled_and_other_types_refused():
    """uint16 is divided by 256; floats have no agreed range."""
    grey = np.full((4, 4), 0x12FF, np.uint16)
    assert (decode(grey, side=4, channels=1) == 0x12).all()
    with pytest.raises(ValueError, match="pixels of type float64"):
        decode(np.zeros((4, 4)), side=4, channels=1)


def test_the_centre_is_cropped_and_the_short_side_fitted():
    """A wide image loses its left and right quarter, nothing else."""
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert (decode(wide, side=4, channels=3) == 200).all()
    assert decode(wide, side=2, channels=1).shape == (1, 2, 2)


def test_every_unreadable_file_is_named_in_one_error(folder, tmp_path):
    """Truncated, empty and text files: all named with the reason; skipping is counted."""
    root, _ = folder
    whole = (root / "train/ant/00.png").read_bytes()
    (root / "train/ant/00.png").write_bytes(whole[:40])
    (root / "train/bee/notes.txt").write_text("hello")
    (root / "test/cat/empty.png").write_bytes(b"")
    listing = load("imagefolder", root)

    with pytest.raises(DataError, match="3 of 14 images cannot be read") as error:
        decoded(listing, tmp_path)
    assert all(name in str(error.value) for name in ("train/ant/00.png", "train/bee/notes.txt", "test/cat/empty.png"))
    assert len(decoded(listing, tmp_path, skip_unreadable=True)[2]) == 11


def test_more_unreadable_files_than_a_line_holds_are_listed_in_a_file(tmp_path, monkeypatch):
    """The message names a few and the file that names all."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "root" / "ant"
    place.mkdir(parents=True)
    for n in range(60):
        (place / f"{n:02d}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="and 56 more, all listed in scratch/unreadable.txt"):
        decoded(load("imagefolder", tmp_path / "root"), tmp_path)
    assert len((tmp_path / "scratch/unreadable.txt").read_text().splitlines()) == 60


def test_workers_change_nothing(tmp_path):
    """Two processes give the bytes of one, in order."""
    place = tmp_path / "root" / "ant"
    place.mkdir(parents=True)
    for n, image in enumerate(pixels(300, side=5)):
        Image.fromarray(image).save(place / f"{n:03d}.png")
    listing = load("imagefolder", tmp_path / "root")
    one, two = (decoded(listing, tmp_path / str(w), side=5, workers=w) for w in (1, 2))
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train/bee").rename(root / "gone"), "found beside train and test folders"),
        (lambda root: [f.unlink() for f in (root / "train/bee").iterdir()], r"train/bee: found no image"),
        (lambda root: root.rename(root.with_name("away")), "no such folder"),
    ],
    ids=["beside", "empty", "missing"],
)
def test_a_bad_folder_is_named(folder, spoil, message):
    """One line with the path."""
    root, _ = folder
    spoil(root)
    with pytest.raises(DataError, match=message):
        load("imagefolder", root)


def test_only_listed_classes_are_looked_into(folder, monkeypatch):
    """Ten classes of ImageNet do not list the other 990; every folder still gives its name, for the messages."""
    root, _ = folder
    whole, seen, walk = load("imagefolder", root), [], folders.os.walk
    monkeypatch.setattr(folders.os, "walk", lambda place, **how: seen.append(place) or walk(place, **how))
    listing = readers.read(section("imagefolder", root), {"cat", "bee"})
    assert sorted({place.name for place in seen}) == ["bee", "cat"]
    assert listing.names == whole.names
    one, two = (found.restricted(["cat", "bee"]) for found in (whole, listing))
    assert list(one.items) == list(two.items)
    assert len(two.items) == 8
    assert (one.labels.tolist(), one.splits, one.origins) == (two.labels.tolist(), two.splits, two.origins)


def test_prepare_leaves_other_folders_alone(folder, tmp_path, toy):
    """A class list of the user's own: a broken folder outside it is nobody's business, a missing one is named."""
    from ims3core.pipeline import harness

    root, _ = folder
    [file.unlink() for file in (root / "train/bee").iterdir()]
    (tmp_path / "two.csv").write_text("folder\ncat\nant\n")
    changes = {"data__source": "imagefolder", "data__path": str(root), "data__classes": str(tmp_path / "two.csv")}
    params = toy(**changes, data__side=6, data__channels=3, eval__ipc=[1], data__validation_fraction=0.34)
    harness.run("prepare", params, tmp_path)
    assert [row.name for row in data.read_classes(tmp_path / "data/real/classes.json")] == ["cat", "ant"]
    (tmp_path / "two.csv").write_text("folder\ncat\ndog\n")
    with pytest.raises(DataError, match=r"data\.classes: 1 of 2 classes have no folder: dog"):
        harness.run("prepare", toy(**changes), tmp_path)


def test_val_is_the_test_split_where_there_is_none(folder):
    """ImageNet's layout; beside a test folder it is the validation split."""
    root, _ = folder
    (root / "test").rename(root / "val")
    assert set(load("imagefolder", root).splits) == {"train", "test"}


def test_bad_archives_are_named(tmp_path):
    """Truncated, pickled and unlabelled archives."""
    np.savez(tmp_path / "a.npz", pictures=pixels())
    with pytest.raises(DataError, match="found pictures; wanted images and labels"):
        load("npz", tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(DataError, match=r"b\.npz: not an npz archive"):
        load("npz", tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.array([{"code": 1}], dtype=object), labels=np.zeros(1))
    with pytest.raises(DataError, match=r"c\.npz: not an npz archive of plain arrays"):
        load("npz", tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", images=pixels(), labels=np.zeros(3, int))
    with pytest.raises(DataError, match="12 images and 3 labels"):
        load("npz", tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", images=pixels(), labels=np.full(12, 2), class_names=np.array(["one"]))
    with pytest.raises(DataError, match=r"labels go to 2, class_names has 1 names"):
        load("npz", tmp_path / "e.npz")
    with pytest.raises(DataError, match="no such file"):
        load("npz", tmp_path / "none.npz")


def test_indexed_images_equal_stored_ones_and_notice_changes(folder, tmp_path):
    """The same rows as the array; a file that changed since prepare is named."""
    root, _ = folder
    listing = load("imagefolder", root)
    stored, digests, rows = decoded(listing, tmp_path)
    prepare.write_index(tmp_path / "real/train", listing, digests, rows, listing.labels, channels=3, side=6)
    prepare.write_pixels(tmp_path / "copy/train", tmp_path / "x/all.npy", rows, listing.labels)
    index, copy = data.read_split(tmp_path / "real/train"), data.read_split(tmp_path / "copy/train")

    for wanted in (torch.tensor([3, 0, 7]), slice(2, 5), 4):
        assert torch.equal(index.images[wanted], copy.images[wanted])
    Image.fromarray(pixels(1, seed=5)[0]).save(root / listing.origins[0])
    with pytest.raises(DataError, match="its pixels changed since"):
        index.images[0]
    (root / listing.origins[1]).unlink()
    with pytest.raises(DataError, match="was readable when"):
        index.images[1]


def test_only_files_can_be_indexed(tmp_path):
    """Arrays have no place to stay."""
    with pytest.raises(DataError, match=r"data\.storage: 'index' wants images in files"):
        prepare.write_index(tmp_path, load("digits", ""), [], np.arange(0), np.arange(0), channels=1, side=8)


def test_statistics_are_those_of_all_training_pixels(tmp_path):
    """Mean and std per channel, equal to the plain formula on the pixels."""
    listing = Listing(["a"], pixels(300), np.zeros(300, int), ["train"] * 300, [str(n) for n in range(300)])
    *_, sums = prepare.decode_listing(listing, None, side=6, channels=3, workers=1, skip_unreadable=False)
    rows = np.arange(0, 300, 3)
    prepare.write_statistics(tmp_path / "s.json", sums[rows], side=6)

    mean, std = data.read_statistics(tmp_path / "s.json")

    values = torch.from_numpy(pixels(300)[rows]).double().flatten(0, 2).T / 255
    assert mean == pytest.approx(values.mean(1).tolist())
    assert std == pytest.approx(values.std(1, correction=0).tolist())


# What an archive holds beside what is used ----------------------------------------------------------------------------


def test_an_unlabelled_test_split_of_an_archive_is_said_to_be_left_out(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        train_images=pixels(),
        train_labels=np.arange(12) % 3,
        test_images=pixels(),
        ids=np.arange(12),
    )
    found = load("npz", tmp_path / "a.npz")
    assert set(found.splits) == {"all"} and len(found.items) == 12
    assert [line.split(": ", 2)[2] for line in found.warnings] == [
        "test_images has no labels and is left out",
        "ids: no images or labels, left out",
    ]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": pixels(), "labels": np.zeros(12, int)}, r"found images and labels beside train_images; .*\{train: train\} reads the others"),
        ({"images": pixels()}, "found images beside train_images"),
        ({"val_images": pixels()}, "found val_images and no val_labels, wanted both"),
        ({"test_labels": np.zeros(12, int)}, "found test_labels and no test_images, wanted both"),
    ],
)  # fmt: skip
def test_images_of_an_archive_are_not_dropped(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", train_images=pixels(), train_labels=np.arange(12) % 3, **arrays)
    with pytest.raises(DataError, match=says):
        load("npz", tmp_path / "a.npz")
    chosen = load("npz", tmp_path / "a.npz", splits={"train": "train"})
    assert len(chosen.items) == 12


def test_class_names_may_be_bytes(tmp_path):
    np.savez(
        tmp_path / "a.npz", images=pixels(), labels=np.arange(12) % 2, class_names=np.array(["Käfer".encode(), b"bee"])
    )
    assert load("npz", tmp_path / "a.npz").names == ["Käfer", "bee"]
    np.savez(tmp_path / "a.npz", images=pixels(), labels=np.arange(12) % 2, class_names=np.array([b"\xe4", b"bee"]))
    with pytest.raises(DataError, match="class_names are bytes, wanted text or UTF-8"):
        load("npz", tmp_path / "a.npz")


def test_no_image_at_all_is_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels()[:0], labels=np.zeros(0, int))
    with pytest.raises(DataError, match=r"data\.path: \S+: found no image with a label, wanted some of at least two"):
        load("npz", tmp_path / "a.npz")


# Dark classes and large pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dark", [np.full((6, 6), 4095, np.uint16), np.ones((6, 6), np.uint8)], ids=["12 bits in 16", "masks of 0 and 1"]
)
def test_a_dark_class_among_others_is_named(tmp_path, caplog, dark):
    """The brightest pixel of a class counts, not that of the set."""
    for name in ("a", "b", "dark"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for n in range(3):
            picture = dark if name == "dark" else pixels(1, seed=n)[0]
            Image.fromarray(picture).save(tmp_path / "root" / name / f"{n}.png")
    decoded(load("imagefolder", tmp_path / "root"), tmp_path)
    line = f"no pixel of 3 images of class dark is brighter than {15 if dark.max() > 255 else 1} of 255"
    assert [line in text for text in caplog.messages] == [True]


def test_a_large_picture_is_read_without_a_word(tmp_path, monkeypatch):
    """Pillow warns of pictures beyond its limit, which are read all the same."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(np.full((12, 12, 3), 9, np.uint8)).save(tmp_path / "a.png")
    found = decode_chunk([tmp_path / "a.png"], side=6, channels=3)
    assert found.problems == [None] and found.pixels[0].tolist() == np.full((3, 6, 6), 9).tolist()
    kept = data.IndexedImages(tmp_path, ["a.png"], found.digests, 6, 3)
    assert kept[0].tolist() == found.pixels[0].tolist()
