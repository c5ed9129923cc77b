"""Tables of the hub's and of anybody's make: every image under the name of its class, or one line about the column."""

import base64
import decimal
import io
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ims3core.data.decode import decode
from ims3core.errors import DataError
from ims3core.ingest import cells, readers
from ims3core.params.sections import Data

SIDE, COUNT = 6, 4
NAMES = ["ant", "bee", "cat"]
ROWS = [k for k in range(3) for _ in range(COUNT)]
LEVELS = {"ant": 8, "bee": 28, "cat": 48}  # class k is as bright as 20 k + 8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pixels(k):
    return np.full((SIDE, SIDE, 3), 20 * k + 8, np.uint8)


def png(k):
    Image.fromarray(pixels(k)).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def load(path, **keys):
    given = {
        "source": "huggingface", "name": None, "path": path and str(path), "revision": None, "classes": None, "side": SIDE,
        "channels": 3, "storage": "pixels", "skip_unreadable": False, "validation_fraction": 0.1, "test_fraction": 0.2,
    }  # fmt: skip
    return readers.read(Data(**given | keys))


def levels(listing, split=None):
    """Class name -> its brightness in a split; every image of a class has it."""
    found = {}
    for row, label in enumerate(listing.labels):
        if split in (None, listing.splits[row]):
            pixel = decode(listing.items[row], side=SIDE, channels=3)
            found.setdefault(listing.names[label], set()).update(pixel.ravel().tolist())
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def plain(folder, split="train", labels=None, images=None):
    """A table of anybody's make."""
    folder.mkdir(exist_ok=True)
    images = [png(k) for k in ROWS] if images is None else images
    columns = {"image": images} | (
        {} if labels is False else {"label": [NAMES[k] for k in ROWS] if labels is None else labels}
    )
    pyarrow.parquet.write_table(pa.table(columns), folder / f"{split}-0.parquet")
    return folder


def typed(folder, kind, labels, split="train", rows=ROWS, images=None):
    """A table of the hub's make, with a feature for its labels."""
    folder.mkdir(exist_ok=True)
    images = images or (datasets.Image(), [{"bytes": png(k), "path": None} for k in rows])
    features = datasets.Features({"image": images[0], "label": kind})
    table = datasets.Dataset.from_dict({"image": images[1], "label": labels}, features=features)
    table.to_parquet(str(folder / f"{split}-0.parquet"))
    return folder


def split_tables(folder, train, test, **parts):
    """Splits that number the classes of ``ROWS`` in an order of their own."""
    for split, names in {"train": train, "test": test, **parts}.items():
        typed(folder, datasets.ClassLabel(names=names), [names.index(NAMES[k]) for k in ROWS], split)
    return folder


class TestImages:
    @pytest.mark.parametrize(
        "images",
        [
            [png(k) for k in ROWS], pa.array([png(k) for k in ROWS], pa.large_binary()),
            pa.array([png(k) for k in ROWS], pa.binary_view()), [{"bytes": png(k), "path": "x.png"} for k in ROWS],
            [{"bytes": base64.b64encode(png(k)).decode()} for k in ROWS], [[png(k)] for k in ROWS], [[{"bytes": png(k), "path": None}] for k in ROWS],
            [base64.b64encode(png(k)).decode() for k in ROWS],
            [f"data:image/png;base64,{base64.encodebytes(png(k)).decode()}" for k in ROWS],
            [f"pictures/{k}.png" for k in ROWS], [{"bytes": None, "path": f"pictures/{k}.png"} for k in ROWS],
            [pixels(k).tolist() for k in ROWS], [pixels(k)[..., 0].tolist() for k in ROWS],
            pa.array([pixels(k).tolist() for k in ROWS], pa.list_(pa.list_(pa.list_(pa.uint8(), 3)))),
        ],
        ids=["bytes", "large", "view", "struct", "base64-struct", "list", "list-of-struct", "base64", "address", "paths", "path-struct",
             "pixels", "grey", "fixed"],
    )  # fmt: skip
    def test_cells_that_hold_one_image_are_read(self, tmp_path, images):
        """Each class has its level, whatever the image is wrapped in."""
        folder = plain(tmp_path / "set", images=images)
        (folder / "pictures").mkdir()
        [(folder / f"pictures/{k}.png").write_bytes(png(k)) for k in range(3)]
        assert levels(load(folder, image_column="image")) == LEVELS

    @pytest.mark.parametrize("shape", [(SIDE, SIDE, 3), (SIDE, SIDE)])
    def test_array_features_are_pixels(self, tmp_path, shape):
        """Array2D and Array3D of ``datasets``."""
        kind = {2: datasets.Array2D, 3: datasets.Array3D}[len(shape)](shape=shape, dtype="uint8")
        images = [
            pixels(k).reshape(*shape[:2], -1)[..., : shape[-1] if len(shape) == 3 else 1].reshape(shape) for k in ROWS
        ]
        folder = typed(tmp_path / "set", datasets.ClassLabel(names=NAMES), ROWS, images=(kind, images))
        assert levels(load(folder, image_column="image")) == LEVELS

    @pytest.mark.parametrize(
        ("images", "says"),
        [
            ([[png(k)] * (1 + (row == 5)) for row, k in enumerate(ROWS)], r"images are lists, with 2 in row 5"),
            ([[] for _ in ROWS], "images are lists, with 0 in row 0"),
            ([f"picture {n}" for n, _ in enumerate(ROWS)], "holds text \\('picture 0'\\), wanted images"),
            ([f"https://x.org/{n}.png" for n, _ in enumerate(ROWS)], "holds web addresses"),
            ([f"gone/{n}.png" for n, _ in enumerate(ROWS)], "holds paths of files that are not there \\('gone/0.png'\\)"),
            (["x" * 5000 for _ in ROWS], "holds text"),
            (ROWS, "holds int64, wanted images"), (pa.nulls(len(ROWS)), "holds null, wanted images"),
            ([pixels(k).ravel().tolist() for k in ROWS], "flattened images must be reshaped"),
            ([pixels(k).transpose(2, 0, 1).tolist() for k in ROWS], "channels first"),
            ([(pixels(k) / 255).tolist() for k in ROWS], "pixels are float64 from"),
            ([(pixels(k).astype(int) * 9).tolist() for k in ROWS], "row 8: pixels from 432 to 432"),
            ([[[1, 2], [3]] for _ in ROWS], "lists of unequal lengths"),
            ([{"name": "a", "size": 3} for _ in ROWS], "holds struct<name"),
        ],
    )  # fmt: skip
    def test_other_cells_are_refused_by_column_and_content(self, tmp_path, images, says):
        """Never a traceback once the advised key is set."""
        folder = plain(tmp_path / "set", images=images)
        with pytest.raises(DataError, match=f"column image.*({says})") as error:
            listing = load(folder, image_column="image")
            [listing.items[row] for row in range(len(ROWS))]
        assert len(str(error.value)) < 600

    def test_every_column_can_be_chosen_as_the_refusal_advises(self, tmp_path):
        """Where no column is typed, each of the named columns is read or refused in a line."""
        text = [base64.b64encode(png(k)).decode() for k in ROWS]
        columns = {"text": text, "number": ROWS, "picture": [pixels(k).tolist() for k in ROWS], "label": ROWS}
        (tmp_path / "set").mkdir()
        pyarrow.parquet.write_table(pa.table(columns), tmp_path / "set/train.parquet")
        with pytest.raises(DataError, match=r"0 image columns .*data\.image_column chooses"):
            load(tmp_path / "set")
        for column, read in {"text": True, "picture": True, "number": False, "label": False, "none": False}.items():
            if read:
                assert list(levels(load(tmp_path / "set", image_column=column)).values()) == [8, 28, 48]
            else:
                with pytest.raises(DataError, match=rf"(column {column}: holds int64|no column 'none')"):
                    load(tmp_path / "set", image_column=column)

    def test_an_empty_cell_is_one_unreadable_image(self, tmp_path):
        """Null among lists of one, among paths, and among pixels."""
        for n, images in enumerate(
            ([[png(0)], None], [{"bytes": png(0), "path": None}, None], [pixels(0).tolist(), None])
        ):
            listing = load(plain(tmp_path / str(n), images=images, labels=["a", "b"]), image_column="image")
            assert (listing.items[0] is None, listing.items[1] is None) == (False, True)


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            ([k == 2 for k in ROWS], None), ([float(k) for k in ROWS], ["0", "1", "2"]),
            ([9999 * k for k in ROWS], ["0", "9999", "19998"]), ([f" {NAMES[k]}" for k in ROWS], NAMES),
            ([[k] for k in ROWS], ["0", "1", "2"]), ([[NAMES[k]] for k in ROWS], NAMES),
            (pa.array([NAMES[k] for k in ROWS]).dictionary_encode(), NAMES),
            ([NAMES[k].encode() for k in ROWS], NAMES), (pa.array([NAMES[k] for k in ROWS], pa.large_string()), NAMES), (pa.array(ROWS, pa.uint64()), ["0", "1", "2"]),
        ],
        ids=["bool", "float", "gaps", "blanks", "list", "list-of-text", "dictionary", "bytes", "large", "uint64"],
    )  # fmt: skip
    def test_one_label_per_row_of_any_type(self, tmp_path, labels, names):
        """Names stand on the right images."""
        listing = load(plain(tmp_path / "set", labels=labels), image_column="image")
        if names is None:
            assert np.array_equal(listing.labels, [k == 2 for k in ROWS])
        else:
            assert levels(listing) == dict(zip(names, (8, 28, 48), strict=True))

    def test_numbers_with_gaps_are_said(self, tmp_path):
        """A class that is lacking altogether does not go without a word; 1 to 3 is no gap."""
        gaps = load(plain(tmp_path / "gaps", labels=[9999 * k for k in ROWS]))
        assert gaps.warnings == ["labels are numbers from 0 to 19998, of which 3 occur: these are the classes"]
        assert not load(plain(tmp_path / "one", labels=[k + 1 for k in ROWS])).warnings

    @pytest.mark.parametrize(
        ("labels", "says"),
        [
            ([[k] if row else [k, 1] for row, k in enumerate(ROWS)], "labels are lists, with 2 in row 0, wanted one label"),
            ([[int(k == n) for n in range(3)] for k in ROWS], "labels are lists, with 3 in row 0"),
            ([None if row == 7 else k for row, k in enumerate(ROWS)], r"no label \(null\), the first is row 7"),
            ([-k for k in ROWS], "label -1 in row 4"), ([k / 2 for k in ROWS], "label 0.5 in row 4"),
            ([decimal.Decimal(k) for k in ROWS], "type Decimal"), ([{"id": k} for k in ROWS], "type dict"),
            ([b"\xff" for k in ROWS], "labels are bytes, wanted text"), ([10**12 + k for k in ROWS], "cannot be a class"),
        ],
    )  # fmt: skip
    def test_no_label_or_several_are_refused_by_row(self, tmp_path, labels, says):
        """The column and the first wrong row are in the line."""
        with pytest.raises(DataError, match=f"column label.*{says}"):
            load(plain(tmp_path / "set", labels=labels), image_column="image")

    @pytest.mark.parametrize("many", [False, True])
    def test_lists_of_classes_have_names(self, tmp_path, many):
        """One class in a list is that class; several are refused."""
        kind = datasets.List(datasets.ClassLabel(names=["cat", "ant", "bee"]))
        labels = [[(k + 1) % 3] for k in ROWS]
        labels[3] = labels[3] * (1 + many)
        folder = typed(tmp_path / "set", kind, labels)
        if many:
            with pytest.raises(DataError, match="with 2 in row 3"):
                load(folder)
        else:
            assert levels(load(folder)) == LEVELS


class TestClassTables:
    @pytest.mark.parametrize(
        ("train", "test"),
        [
            (["cat", "ant", "bee"], NAMES), (NAMES, ["bee", "cat", "ant"]), (NAMES, ["x", *NAMES]), (["x", *NAMES], NAMES),
            (NAMES, NAMES),
        ],
    )  # fmt: skip
    def test_classes_are_matched_by_name(self, tmp_path, train, test):
        """Two splits with their own tables: every image keeps its class, and the difference is one line."""
        listing = load(split_tables(tmp_path / "set", train, test))
        assert levels(listing, "train") == levels(listing, "test") == LEVELS
        assert listing.names[: len(train)] == train
        assert [line[:23] for line in listing.warnings] == ["two class tables differ"] * (train != test)

    def test_files_of_one_split_too(self, tmp_path):
        """Each file numbers its classes by itself."""
        folder = split_tables(tmp_path / "set", NAMES, NAMES)
        (folder / "train-0.parquet").rename(folder / "train-00000-of-00002.parquet")
        (folder / "test-0.parquet").rename(folder / "train-00001-of-00002.parquet")
        split_tables(folder, ["cat", "bee", "ant"], ["bee", "ant", "cat"])
        (folder / "train-0.parquet").rename(folder / "train-00001-of-00002.parquet")
        listing = load(folder)
        assert levels(listing, "train") == levels(listing, "test") == LEVELS
        assert listing.splits.count("train") == 2 * len(ROWS)
        assert listing.origins[len(ROWS)] == f"train[{len(ROWS)}]"

    @pytest.mark.parametrize("words_first", [False, True])
    def test_words_in_one_split_and_a_table_in_the_other(self, tmp_path, words_first):
        """The words are the names of the table, whichever split comes first."""
        one, two = ("train", "test") if words_first else ("test", "train")
        folder = plain(tmp_path / "set", one)
        names = ["cat", "ant", "bee"]
        typed(folder, datasets.ClassLabel(names=names), [names.index(NAMES[k]) for k in ROWS], two)
        listing = load(folder)
        assert levels(listing, "train") == levels(listing, "test") == LEVELS

    def test_numbers_beside_names_are_refused(self, tmp_path):
        """A number is no name of the other split's table, and nobody says which it would be."""
        folder = split_tables(tmp_path / "set", NAMES, NAMES)
        plain(folder, "test", labels=ROWS)
        with pytest.raises(DataError, match=r"split test, column label: labels are numbers \(0\), .* names \('ant'\)"):
            load(folder)

    def test_numbers_that_are_the_names_are_classes(self, tmp_path):
        """Digits: '0' in one split, 0 in the other."""
        folder = plain(tmp_path / "set", labels=[str(k) for k in ROWS])
        plain(folder, "test", labels=ROWS)
        listing = load(folder)
        assert levels(listing, "train") == levels(listing, "test") == {"0": 8, "1": 28, "2": 48}

    def test_two_spellings_of_an_accent_are_one_name(self, tmp_path):
        """As a Mac and as others write it."""
        folder = plain(tmp_path / "set", labels=["K\u00e4fer" if k else "ant" for k in ROWS])
        plain(folder, "test", labels=["Ka\u0308fer" if k else "ant" for k in ROWS])
        assert load(folder).names == ["K\u00e4fer", "ant"] or load(folder).names == ["Ka\u0308fer", "ant"]

    def test_the_card_of_a_data_set_names_the_classes_of_plain_files(self, tmp_path):
        """Numbers in the files, names in README.md."""
        folder = plain(tmp_path / "set", labels=ROWS, images=[{"bytes": png(k), "path": None} for k in ROWS])
        label = {"name": "label", "dtype": {"class_label": {"names": {str(n): name for n, name in enumerate(NAMES)}}}}
        card = {"dataset_info": {"features": [{"name": "image", "dtype": "image"}, label]}}
        (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
        assert levels(load(folder)) == LEVELS

    def test_a_hub_data_set_whose_splits_disagree_is_refused(self, tmp_path):
        """``datasets`` reads it as the first split says; the files in a folder are matched by name."""
        folder = split_tables(tmp_path / "set", ["cat", "ant", "bee"], NAMES)
        with pytest.raises(
            DataError, match=r"splits train and test have different class tables in column label; .*data\.path"
        ):
            load(None, name=str(folder))
        assert levels(load(None, name=str(split_tables(folder, NAMES, NAMES)))) == LEVELS

    @pytest.mark.parametrize("hidden", [[-1] * len(ROWS), pa.nulls(len(ROWS), pa.int64()), False])
    def test_a_test_split_without_labels_is_left_out(self, tmp_path, hidden):
        """ImageNet's on the hub: validation takes its place, and both are said."""
        folder = plain(tmp_path / "set", labels=ROWS)
        plain(folder, "validation", labels=ROWS)
        plain(folder, "test", labels=hidden)
        listing = load(folder)
        assert set(listing.splits) == {"train", "test"}
        assert "split test has no labels and is left out" in listing.warnings[0]
        assert "no test split, validation takes its place" in listing.warnings[1]
        assert levels(listing, "test") == {"0": 8, "1": 28, "2": 48}

    @pytest.mark.parametrize("name", ["dev", "valid", "validation", "Dev"])
    def test_what_stands_in_for_the_test_split_is_called_by_its_name(self, tmp_path, name):
        """`datasets` knows it as validation, its owner does not."""
        folder = plain(tmp_path / "set", labels=ROWS)
        plain(folder, name, labels=ROWS)
        listing = load(folder)
        assert set(listing.splits) == {"train", "test"}
        assert f"no test split, {name.lower()} takes its place" in listing.warnings[0]

    def test_two_names_of_one_split_are_not_put_together(self, tmp_path):
        """Each may be the one that is meant."""
        folder = plain(tmp_path / "set", labels=ROWS)
        plain(folder, "dev", labels=ROWS)
        plain(folder, "valid", labels=ROWS)
        with pytest.raises(DataError, match=r"splits dev and valid are both validation; data\.splits chooses"):
            load(folder)

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_a_split_without_rows_is_said(self, tmp_path, split):
        """Nothing to train on is refused; an empty test split is left out, and one is drawn."""
        folder = plain(plain(tmp_path / "set"), "test")
        plain(folder, split, labels=pa.array([], pa.string()), images=pa.array([], pa.binary()))
        if split == "train":
            with pytest.raises(DataError, match="split train has no rows"):
                load(folder)
        else:
            assert load(folder).warnings == [f"data.path: {folder}: split test has no rows and is left out"]

    @pytest.mark.parametrize("several", [False, True])
    def test_a_folder_of_save_to_disk_is_read(self, tmp_path, several):
        """One data set, or several splits that number their classes by themselves."""
        saved = {}
        for split, names in (("train", ["cat", "ant", "bee"]), ("test", NAMES)):
            typed(tmp_path / split, datasets.ClassLabel(names=names), [names.index(NAMES[k]) for k in ROWS])
            saved[split] = datasets.Dataset.from_parquet(str(tmp_path / split / "train-0.parquet"))
        (datasets.DatasetDict(saved) if several else saved["train"]).save_to_disk(str(tmp_path / "set"))
        listing = load(tmp_path / "set")
        assert [levels(listing, split) for split in sorted(set(listing.splits))] == [LEVELS] * (1 + several)

    @pytest.mark.parametrize("column", ["label", "image"])
    def test_text_that_is_no_utf8_is_named(self, tmp_path, column):
        """Bytes in a column that says it is text: the column, and no traceback."""
        text = pa.array([b"a\xff"] * len(ROWS)).view(pa.string())
        folder = plain(
            tmp_path / "set", labels=text if column == "label" else ROWS, images=text if column == "image" else None
        )
        with pytest.raises(DataError, match=rf"column {column}|not a readable"):
            load(folder, image_column="image")

    def test_one_file_is_a_data_set(self, tmp_path):
        """``data.path`` may be a parquet file, also in a folder that ``datasets`` cannot open; that is said."""
        folder = plain(tmp_path / "[1] a*b?")
        assert levels(load(folder / "train-0.parquet")) == LEVELS
        with pytest.raises(DataError, match="rename the folder"):
            load(folder)


def files(folder, *names):
    """Tables of these names, each of all classes."""
    for name in names:
        plain(folder, "x")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "x-0.parquet").rename(folder / name)
    return folder


class TestSplitsOfFiles:
    @pytest.mark.parametrize(
        ("names", "splits", "keys"),
        [
            (["Train.parquet", "Test.parquet"], {"train": 1, "test": 1}, {}),
            (["TRAIN.parquet", "TEST.parquet", "VAL.parquet"], {"train": 1, "test": 1, "validation": 1}, {}),
            (["trainset.parquet", "testset.parquet"], {"train": 1, "test": 1}, {}),
            (["train/0000.parquet", "test/0000.parquet", "test/0001.parquet"], {"train": 1, "test": 2}, {}),
            (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": 1, "test": 1}, {}),
            (["a.parquet", "b.parquet"], {"all": 2}, {}),
            (["train.parquet", "holdout.parquet"], {"train": 1, "test": 1}, {"splits": {"train": "train", "test": "holdout"}}),
            (["one-00000-of-00001.parquet", "two.parquet"], {"train": 1, "test": 1}, {"splits": {"train": "one", "test": "two"}}),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )  # fmt: skip
    def test_a_name_says_the_split(self, tmp_path, names, splits, keys):
        """In capitals, as a word with ``set``, as a folder, or as ``data.splits`` has it; nothing where none says one."""
        listing = load(files(tmp_path / "set", *names), **keys)
        assert {split: listing.splits.count(split) // len(ROWS) for split in set(listing.splits)} == splits
        assert levels(listing) == LEVELS

    @pytest.mark.parametrize(
        ("names", "says"),
        [
            (["train.parquet", "holdout.parquet"], r"holdout\.parquet: in no split by the name, beside train\.parquet \(train\).*\{train: train, test: holdout\} reads"),
            (["ant_train.parquet", "bee.parquet", "cat.parquet"], r"bee\.parquet, cat\.parquet: in no split by the name, beside ant_train\.parquet"),
            (["train/test.parquet", "train/0.parquet"], r"train/test\.parquet: named like test and train, wanted one split in a name"),
            (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet", "test.parquet"], "train-00001-of-00003: not there, beside 2 of 3 files"),
            (["data/x-1-of-4.parquet", "data/x-4-of-4.parquet"], "x-2-of-4, x-3-of-4: not there, beside 2 of 4 files"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )  # fmt: skip
    def test_files_that_would_be_lost_are_named(self, tmp_path, names, says):
        """No split, two splits, and parts that are not there."""
        with pytest.raises(DataError, match=says):
            load(files(tmp_path / "set", *names))

    @pytest.mark.parametrize(("column", "words"), [("split", ("train", "test")), ("Split", ("Training ", "TEST")), ("subset", ("train", "val"))])  # fmt: skip
    def test_a_column_says_the_split(self, tmp_path, column, words):
        """Its values are roles, or named by ``data.splits``; the test images are those of its rows."""
        folder, said = tmp_path / "set", [words[n % 2] for n in range(len(ROWS))]
        columns = {"image": [png(k) for k in ROWS], "label": [NAMES[k] for k in ROWS], column: said}
        folder.mkdir()
        pyarrow.parquet.write_table(pa.table(columns), folder / "x.parquet")
        listing = load(folder)
        assert listing.splits == ["train" if word == words[0] else "test" for word in said]
        chosen = load(folder, splits={"train": words[1].strip()})
        assert set(chosen.splits) == {"all"} and len(chosen.items) == said.count(words[1])

    @pytest.mark.parametrize(
        ("said", "says"),
        [("holdout", "column split: split 'holdout' is unknown"), (3, "column split: split '3' is unknown"), (None, "column split: row 1 says no split")],
    )  # fmt: skip
    def test_a_strange_value_in_a_column_of_splits_is_refused(self, tmp_path, said, says):
        folder = tmp_path / "set"
        folder.mkdir()
        values = pa.array(
            [None if n % 2 and said is None else str(said) if n % 2 else "train" for n in range(len(ROWS))]
        )
        columns = {"image": [png(k) for k in ROWS], "label": [NAMES[k] for k in ROWS], "split": values}
        pyarrow.parquet.write_table(pa.table(columns), folder / "x.parquet")
        with pytest.raises(DataError, match=says):
            load(folder)

    def test_an_empty_label_is_named_with_its_row(self, tmp_path):
        """Refused in train; a test split of nothing else has no labels and is left out."""
        words = [NAMES[k] for k in ROWS]
        folder = plain(tmp_path / "set", labels=[*words[:2], " ", *words[3:]])
        with pytest.raises(
            DataError, match=r"split train, column label: 1 rows have no label \(an empty text\), the first is row 2"
        ):
            load(folder)
        plain(folder)
        plain(folder, "test", labels=[""] * len(ROWS))
        listing = load(folder)
        assert levels(listing) == LEVELS and "split test has no labels and is left out" in listing.warnings[0]


def test_a_table_of_twenty_thousand_names_is_matched_at_once():
    """Two tables of 20,000 names in opposite order, as fast as they are long."""
    names = [f"n{n:08d}" for n in range(20_000)]
    numbers = np.arange(20_000)
    parts = [cells.Labels(numbers, names, True, "train"), cells.Labels(numbers, names[::-1], True, "test")]
    found, labels, _ = cells.unified(parts)
    assert found == names
    assert np.array_equal(labels, np.concatenate([numbers, numbers[::-1]]))
