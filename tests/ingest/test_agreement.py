"""Splits and class tables that disagree, ImageNet under other names, and its data as downloaded."""

import re

import numpy as np
import pytest
from PIL import Image

from ims3core import data
from ims3core.data.decode import decode
from ims3core.errors import DataError
from ims3core.ingest import agreement, classes, readers
from ims3core.ingest.listing import Listing
from ims3core.params.sections import Data
from ims3core.pipeline import harness

NETTE = classes.benchmark_lists()["imagenette"]
WORDS = [text for _, text in classes.imagenet().values()]
SHORT = ["tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck",
         "gas pump", "golf ball", "parachute"]  # fmt: skip


def listing(train, test, names=None):
    """Class name -> images in each split."""
    names = names or sorted({*train, *test})
    rows = [(n, split) for split, counts in (("train", train), ("test", test))
            for n, name in enumerate(names) for _ in range(counts.get(name, 0))]  # fmt: skip
    labels = np.array([n for n, _ in rows], np.int64)
    return Listing(
        names, np.zeros((len(rows), 2, 2), np.uint8), labels, [split for _, split in rows], ["x"] * len(rows)
    )


class TestSplits:
    @pytest.mark.parametrize(
        ("train", "test", "says"),
        [
            ("ant cat", "ant", "class cat has images in train and no image in the test split; rename"),
            ("ant", "ant cat dog", "class cat, dog has images in test and no image in the train split; rename"),
            ("dog ant", "Dog ant", "class Dog has images in test .* train split; is it the class 'dog' there"),
            ("a_dog ant", "A-Dog ant", "class A-Dog .* 'a_dog'"), ("01 02", "1 02", "class 1 .* '01'"),
            ("K\u00e4fer a", "Ka\u0308fer a", "spelled otherwise"),
        ],
    )  # fmt: skip
    def test_a_class_of_one_split_is_named_with_the_other_spelling(self, train, test, says):
        """The class, the split it is lacking in, and a class there that looks alike."""
        one = listing(dict.fromkeys(train.split(), 3), dict.fromkeys(test.split(), 2))
        with pytest.raises(DataError, match=says) as error:
            agreement.check_splits(one)
        assert "data.classes" in str(error.value)

    def test_the_same_classes_agree(self):
        """Any numbers of images; and one split alone."""
        agreement.check_splits(listing({"a": 3, "b": 1}, {"a": 1, "b": 5}))
        agreement.check_splits(listing({"a": 3, "b": 1}, {}))

    def test_unused_names_are_left_out_and_said(self):
        """997 of 1,000 names: three classes in their order, their labels kept, one line of bounded length."""
        names = [f"n{n:08d}" for n in range(1000)]
        used = agreement.without_unused(listing({names[n]: 2 for n in (5, 0, 999)}, {names[0]: 1}, names))
        assert used.names == [names[0], names[5], names[999]]
        assert np.bincount(used.labels).tolist() == [3, 2, 2]
        assert len(used.warnings) == 1
        assert re.match(r"997 of 1,000 classes have no image and are left out: n00000001", used.warnings[0])
        assert len(used.warnings[0]) < 600
        assert not agreement.without_unused(listing({"a": 1}, {"a": 1})).warnings

    def test_prepare_leaves_out_unused_names_unless_a_list_names_them(self, tmp_path, toy, caplog):
        """npz with class_names that no image has; a class of data.classes without images is refused."""
        pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
        names = np.array(["ant", "bee", "cat", "dog"])
        np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(40) % 2 * 2, class_names=names)
        (tmp_path / "three.csv").write_text("folder\nant\nbee\ncat\n")
        changes = {"data__source": "npz", "data__path": str(tmp_path / "a.npz"), "eval__ipc": [1]}
        harness.run("prepare", toy(**changes), tmp_path)
        assert [row.name for row in data.read_classes(tmp_path / "data/real/classes.json")] == ["ant", "cat"]
        assert "2 of 4 classes have no image and are left out: bee, dog" in caplog.text
        with pytest.raises(DataError, match=r"data.*class.* no image(: bee|, wanted)"):
            harness.run("prepare", toy(**changes, data__classes=str(tmp_path / "three.csv")), tmp_path)


class TestImageNet:
    @pytest.mark.parametrize("double", ["{word} ({n})", "{word}2", "{word}_{n}"])
    def test_a_table_of_its_words_is_imagenets(self, double):
        """The hub's 1,000 words, doubles told apart somehow, as folders spell them: each its WordNet id."""
        names = [double.format(word=word, n=n) if word in WORDS[:n] else word for n, word in enumerate(WORDS)]
        for spelled in (names, [name.replace(" ", "_") for name in names], [name.split(",")[0] for name in names]):
            assert classes.with_wordnet_ids(spelled, None) == list(classes.imagenet())
            table = classes.class_table(classes.with_wordnet_ids(spelled, "imagenette"), "imagenette", trained=False)
            assert [row.generator_label for row in table] == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]

    def test_other_tables_of_a_thousand_are_not(self):
        """Names of one's own, numbers, and ImageNet's words in another order."""
        for names in ([f"kind {n}" for n in range(1000)], [str(n) for n in range(1000)], sorted(WORDS)):
            assert classes.with_wordnet_ids(names, None) == names

    def test_words_of_a_benchmark_are_found_where_they_are_unique(self):
        """The hub's ImageNette with its short names, and a class that is none of it; a crane can be two classes."""
        for spelled in (SHORT, [name.upper() for name in SHORT], [name.replace(" ", "_") for name in SHORT]):
            assert classes.with_wordnet_ids([*spelled, "my dog"], "imagenette") == [*NETTE, "my dog"]
        assert classes.with_wordnet_ids(SHORT, None) == SHORT
        assert classes.with_wordnet_ids(["crane", "tench"], "imagenet1k") == ["crane", NETTE[0]]
        assert classes.with_wordnet_ids(["tench", "Tinca tinca"], "imagenette") == ["tench", "Tinca tinca"]

    def test_a_list_of_ones_own_keeps_its_names(self, tmp_path):
        """A CSV of words on a set of words, with blanks or underscores; a set of WordNet ids stays one."""
        (tmp_path / "c.csv").write_text("folder,generator_label\nEnglish springer,217\ntench,0\n")
        names = ["English_springer", "tench"]
        assert classes.with_wordnet_ids(names, str(tmp_path / "c.csv")) == names
        table = classes.class_table(names, str(tmp_path / "c.csv"), trained=False)
        assert [(row.name, row.generator_label) for row in table] == [("English_springer", 217), ("tench", 0)]
        assert classes.with_wordnet_ids(list(NETTE), "imagenette") == list(NETTE)

    @pytest.mark.parametrize(
        ("names", "says"),
        [
            (["ant", "bee"], r"the list is of WordNet ids, and a CSV file with the columns folder, human_name, generator_label"),
            ([str(n) for n in range(1000)], "there are 0, 1, 10, 100, 101 and 995 more; the list is of WordNet ids"),
        ],
    )  # fmt: skip
    def test_a_benchmark_on_other_names_is_refused_with_the_way_on(self, names, says):
        """What the list holds, what is there, and that a CSV can map them, in a line of bounded length."""
        with pytest.raises(DataError, match=says) as error:
            classes.class_table(names, "imagenet100", trained=False)
        assert len(str(error.value)) < 600

    def test_numbers_that_lost_their_zeros_are_shown(self, tmp_path):
        """A spreadsheet made 1 of 01."""
        (tmp_path / "c.csv").write_text("folder\n1\n2\n")
        with pytest.raises(DataError, match="is '1' the class '01', spelled otherwise"):
            classes.class_table(["01", "02"], str(tmp_path / "c.csv"), trained=True)

    def test_fastais_sets_are_told_by_names_and_counts(self):
        """Both counts in one line; an own subset of the same classes, and ILSVRC's split, are not called fastai's."""
        parts = dict.fromkeys(NETTE, 947) | {NETTE[0]: 946}, dict.fromkeys(NETTE, 393) | {NETTE[0]: 388}
        (line,) = agreement.benchmark_warnings(listing(*parts))
        assert "imagenette2 with 9,469 training and 3,925 test images; ILSVRC has 12,894 and 500" in line
        words = [dict(zip(SHORT, part.values(), strict=True)) for part in parts]
        assert agreement.benchmark_warnings(listing(*words, names=SHORT)) == [line]
        assert not agreement.benchmark_warnings(listing(parts[0], parts[0]))
        assert not agreement.benchmark_warnings(listing(dict.fromkeys("abcdefghij", 1), {}))
        others = [{f"kind {name}": count for name, count in part.items()} for part in parts]
        assert not agreement.benchmark_warnings(listing(*others))


class TestDownloaded:
    """ILSVRC's CLS-LOC folder: Kaggle's archive, with validation images in one folder and their labels in a CSV."""

    WNIDS = NETTE[:3]

    @pytest.fixture
    def archive(self, tmp_path):
        top, number = tmp_path / "top", 0
        for k, wnid in enumerate(self.WNIDS):
            for split, count in (("train", 4), ("val", 2)):
                folder = top / "ILSVRC/Data/CLS-LOC" / split / (wnid if split == "train" else "")
                folder.mkdir(parents=True, exist_ok=True)
                for _ in range(count):
                    number += 1
                    name = f"{wnid}_{number}" if split == "train" else f"ILSVRC2012_val_{number:08d}"
                    Image.fromarray(np.full((6, 6, 3), 20 * k + 8, np.uint8)).save(folder / f"{name}.JPEG", quality=100)
        (top / "ILSVRC/Data/CLS-LOC/test").mkdir()
        (top / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG").write_bytes(b"x")
        rows = []
        for file in (top / "ILSVRC/Data/CLS-LOC/val").iterdir():
            k = (int(file.stem[-8:]) - 1) // 6
            rows.append(f"{file.stem},{self.WNIDS[k]} 1 2 3 4 {self.WNIDS[k]} 5 6 7 8 ")
        (top / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows) + "\n")
        return top

    def load(self, path, listed=None):
        given = {
            "source": "imagefolder", "name": None, "path": str(path), "revision": None, "classes": listed, "side": 6,
            "channels": 3, "storage": "index", "skip_unreadable": False, "validation_fraction": 0.1, "test_fraction": 0.2,
        }  # fmt: skip
        return readers.read(Data(**given), classes.listed(listed))

    def test_it_is_read_from_its_top_and_from_the_folder_itself(self, archive):
        """Every image has its class; val is the test split; test, which has no labels, is left out by a line."""
        for path in (archive, archive / "ILSVRC/Data/CLS-LOC"):
            found = self.load(path)
            assert (found.splits.count("train"), found.splits.count("test")) == (12, 6)
            for row, file in enumerate(found.items):
                assert abs(decode(file, side=6, channels=3).mean() - (20 * found.labels[row] + 8)) < 1
                assert found.folder / found.origins[row] == file
            assert any("test: has no labels and is left out" in line for line in found.warnings)

    def test_a_list_reads_its_classes_only(self, archive, monkeypatch):
        """Ten classes of ImageNet list no other folder, and no other validation image is theirs."""
        for file in (archive / "ILSVRC/Data/CLS-LOC/train" / self.WNIDS[1]).iterdir():
            file.unlink()
        monkeypatch.setattr(classes, "benchmark_lists", lambda: {"imagenette": (self.WNIDS[2], self.WNIDS[0])})
        found = self.load(archive, "imagenette").restricted([self.WNIDS[2], self.WNIDS[0]])
        assert np.bincount(found.labels).tolist() == [6, 6]

    def test_sorted_validation_images_need_no_table(self, archive):
        """After the usual script, with the test folder still there."""
        folder = archive / "ILSVRC/Data/CLS-LOC"
        for file in sorted((folder / "val").iterdir()):
            place = folder / "val" / self.WNIDS[(int(file.stem[-8:]) - 1) // 6]
            place.mkdir(exist_ok=True)
            file.rename(place / file.name)
        (archive / "LOC_val_solution.csv").unlink()
        assert self.load(folder).splits.count("test") == 6

    def test_images_and_rows_that_do_not_meet_are_named(self, archive):
        """No row: refused by the image and the table; no image: one line; no WordNet id: the row."""
        table = archive / "LOC_val_solution.csv"
        lines = table.read_text().splitlines()
        table.write_text("\n".join([*lines, f"ILSVRC2012_val_00009999,{self.WNIDS[0]} 1 2 3 4"]))
        assert any(
            "1 rows name images that are not there: ILSVRC2012_val_00009999" in w for w in self.load(archive).warnings
        )
        table.write_text("\n".join(lines[:-1]))
        with pytest.raises(DataError, match=r"val: 1 images have no row in .*LOC_val_solution\.csv: ILSVRC2012_val_"):
            self.load(archive)
        table.write_text("\n".join([*lines[:-1], "ILSVRC2012_val_00000001,dog"]))
        with pytest.raises(DataError, match="row 7 has 0 WordNet ids"):
            self.load(archive)

    def test_pictures_are_those_below_a_class(self, archive):
        """Tiny-ImageNet's folder images in a class and its boxes; what Windows leaves is no picture."""
        folder = archive / "ILSVRC/Data/CLS-LOC"
        for wnid in self.WNIDS:
            place = folder / "train" / wnid
            (place / "images").mkdir()
            for file in place.glob("*.JPEG"):
                file.rename(place / "images" / file.name)
            (place / f"{wnid}_boxes.txt").write_text("x 0 0 1 1")
            (place / "Thumbs.db").write_bytes(b"x")
        (folder / "val/Thumbs.db").write_bytes(b"x")
        found = self.load(folder)
        assert (found.splits.count("train"), found.splits.count("test")) == (12, 6)
        assert all(file.suffix == ".JPEG" for file in found.items)
        assert any("3 files that are no pictures of a class are left out: train/n" in line for line in found.warnings)
