"""Advice in messages is collected from the code and followed: what it names exists, and leads to data that are read."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import typer.main

from ims3core.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("ims3core/ingest", "stages/prepare.py")
KEY = re.compile(r"\bdata\.[a-z_]+")


def messages(*places):
    """All texts of the code that are no docstrings, what is put into them as ``...``."""
    for place in places:
        for path in sorted((REPOSITORY / place).rglob("*.py")) or [REPOSITORY / place]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            pieces = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                elif (
                    isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (bare | pieces)
                ):
                    yield node.value


def advice():
    """Messages of the rooms that name a key after they said what was found: what to do about it."""
    return sorted({text for text in messages(*ROOMS) if any(match.start() > 0 for match in KEY.finditer(text))})


def table(root, name, *rows):
    """Writes a table into ``root``, and returns ``root``."""
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("\n".join(rows) + "\n")
    return root


def pictures(draw, *folders, count=12):
    return draw(*(f"{folder}/{n:02d}.png" for folder in folders for n in range(count)))


def classes_csv(root, *names):
    table(root, "classes.csv", "folder", *names)
    return {"classes": str(root / "classes.csv")}


def ids(folders, letters="pq", count=12):
    return [f"{folder}/{n:02d}.png,{letters[n % 2]}" for folder in folders for n in range(count)]


# Each: what somebody has (returns keys of `data`), what is then said, and what it says to do (root, message -> keys). ------


def one_level_up(draw):
    return {"path": pictures(draw, "x/up/a", "x/up/b") / "x"}


def flat(draw):
    return {"path": pictures(draw, "x/a", "x/b") / "x/a"}


def beside_train(draw):
    return {"path": pictures(draw, "train/a", "train/b", "notes")}


def seg(draw):
    return {"path": pictures(draw, "seg_train/a", "seg_train/b", "seg_test/a", "seg_test/b")}


def no_train(draw):
    return {"path": pictures(draw, "train_flat", "test_flat")}


def rows(draw, *lines, folders=("images",), header="file,label"):
    return table(pictures(draw, *folders), "l.csv", header, *(lines or ids(folders)))


def texts(draw):
    return {"path": table(pictures(draw, "a", "b"), "notes/l.csv", "epoch,accuracy", "1,0.5")}


def empty(draw):
    (draw() / "c").mkdir()
    return {"path": pictures(draw, "a", "b")}


def two_tables(draw):
    return {"path": table(rows(draw), "m.csv", "file,label", *ids(["images"]))}


def twice(draw):
    numbers = (f"{n:02d},{'pq'[n % 2]}" for n in range(12))
    return {"path": table(pictures(draw, "images", "copies"), "l.csv", "id,label", *numbers), "table": "l.csv"}


def npz(draw, *splits, labels, **more):
    pixels = [np.random.default_rng(n).integers(0, 256, (24, 6, 6), np.uint8) for n in range(2)]
    parts = {f"{s}images": pixels[n] for n, s in enumerate(splits)} | {f"{s}labels": labels for s in splits}
    np.savez(draw() / "x.npz", **parts, **more)
    return {"source": "npz", "path": draw() / "x.npz"}


def parts(draw):
    return {"path": pictures(draw, "one/a", "one/b", "two/a", "two/b"), "splits": {"test": "two"}}


def damaged(draw, names):
    root = pictures(draw, "a", "b", "c")
    for name in names:
        (root / name).write_bytes(b"no picture")
    return {"path": root}


def parquet(draw, **columns):
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    root = pictures(draw, "x")
    cells = [{"bytes": path.read_bytes(), "path": None} for path in sorted((root / "x").iterdir())]
    kinds = {"image": ImageFeature(), "label": ClassLabel(names=["a", "b"]), "other": Value("string")}
    given = {"image": cells, "label": [n % 2 for n in range(12)]} | columns
    (root / "hf").mkdir()
    Dataset.from_dict(given, features=Features({name: kinds[name] for name in given})).to_parquet(
        root / "hf/train-0.parquet"
    )
    return root / "hf"


def holdout(draw):
    """A file whose name says no split beside one whose name does."""
    root = parquet(draw)
    (root / "holdout.parquet").write_bytes((root / "train-0.parquet").read_bytes())
    return {"source": "huggingface", "path": root}


def other_split(draw):
    """A test split without the last of three classes, in the archive that is there."""
    with np.load(draw() / "x.npz") as archive:
        arrays = dict(archive)
    keep = arrays["train_labels"] < 2
    np.savez(
        draw() / "x.npz",
        **arrays,
        test_images=arrays["train_images"][keep] // 2,
        test_labels=arrays["train_labels"][keep],
    )
    return {}


def hub(draw):
    """Two splits that number their classes in another order, as the hub would have them."""
    from datasets import ClassLabel, Dataset

    path = parquet(draw)
    test = Dataset.from_parquet(str(path / "train-0.parquet"))
    test.cast_column("label", ClassLabel(names=["b", "a"])).to_parquet(str(path / "test-0.parquet"))
    return {"source": "huggingface", "name": str(path)}


def configurations(draw):
    root = parquet(draw)
    (root / "train-0.parquet").rename(root / "p.parquet")
    files = "".join(f"- config_name: {name}\n  data_files: p.parquet\n" for name in ("one", "two"))
    (root / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    return {"source": "huggingface", "path": root}


def divided(draw, *words):
    """A column ``split`` with these words in turn, twelve rows each."""
    lines = [f"{n:02d},{'pq'[n % 2]},{words[n // 12]}" for n in range(12 * len(words))]
    root = pictures(draw, "images", count=len(lines))
    return {"path": table(root, "l.csv", "file,label,split", *lines)}


def tables_of(draw, *names):
    """Tables of these names, each with the labels of twelve pictures in one folder."""
    lines = [f"{n:02d},{'pq'[n % 2]}" for n in range(12 * len(names))]
    root = pictures(draw, "images", count=len(lines))
    for number, name in enumerate(names):
        table(root, f"{name}.csv", "file,label", *lines[12 * number : 12 * number + 12])
    return {"path": root}


def counted(draw):
    """Two columns of numbers that name pictures."""
    root = draw(*(f"images/{n}.png" for n in range(12)))
    return {"path": table(root, "l.csv", "id,image_id,label", *(f"{n},{11 - n},{'pq'[n % 2]}" for n in range(12)))}


def lists(draw):
    """Fewer ``p q`` than of each of both."""
    lines = [f"{n:02d},{('p', 'q', 'p q', 'p', 'q')[n % 5]}" for n in range(40)]
    return {"path": table(pictures(draw, "images", count=40), "l.csv", "file,label", *lines)}


def many_tables(draw):
    root = rows(draw)
    for number in range(20):
        table(root, f"m{number}.csv", "file,label", *ids(["images"]))
    return {"path": root}


def named(key):
    """The value that a message gives a key."""
    return lambda root, text: {key: text.split(f"data.{key}: ")[-1].split(" chooses")[0].strip()}


def splits_named(root, text):
    return {"splits": dict(pair.split(": ") for pair in re.search(r"data\.splits.*?\{(.+?)\}", text)[1].split(", "))}


def by_table(root, text):
    table(root, "own.csv", "file,label", *ids(sorted({path.parent.name for path in root.rglob("*.png")})))
    return {"table": str(root / "own.csv")}


SCENARIOS = {
    "level": (one_level_up, "its folders ... are probably meant: data.path: ...", named("path")),
    "flat": (lambda draw: {"path": pictures(draw, "images")}, "wanted a folder for every class, or a table of labels in data.table", by_table),
    "low": (flat, "if ... is a class, like ..., data.path: ...", named("path")),
    "low-table": (lambda draw: {"path": rows(draw) / "images"}, "if ... has their labels, data.table: ...", named("table")),
    "table-as-path": (lambda draw: {"path": rows(draw) / "l.csv"}, "a table, not a folder; wanted the folder of the pictures there, and data.table: ...",
                      lambda root, text: {"path": root / "images", "table": str(root / "l.csv")}),
    "beside": (beside_train, "found beside ..., wanted nothing else there; data.splits: {...} reads these alone", splits_named),
    "beside-split": (lambda draw: {"path": pictures(draw, *(f"{s}/{c}" for s in ("train", "eval") for c in "ab"))},
                     "found beside ..., which it shares class folders with; wanted nothing else there; data.splits: {...} reads it as a split, {...} reads these alone", splits_named),
    "masks": (lambda draw: {"path": pictures(draw, "images", "masks")}, "not like classes; wanted <class>/<image>, or a table of labels in data.table", by_table),
    "classes-and-masks": (lambda draw: {"path": pictures(draw, "images/a", "images/b", "masks")}, "not like classes; data.path: ... reads the folders in it", lambda root, text: {"path": root / "images"}),
    "masks-inside": (lambda draw: {"path": pictures(draw, *(f"{c}/{s}" for s in ("images", "masks") for c in "ab"))},
                     "pictures, and what belongs to them; wanted only pictures in a class; move the others away, or data.classes names the classes, of which all files then count", lambda root, text: classes_csv(root, "a", "b")),
    "domains": (lambda draw: {"path": pictures(draw, *(f"{s}/{c}" for s in "xy" for c in "ab"))}, ", which are probably the classes; data.path: ... reads those of ... alone; data.splits: {...} where they are splits; else wanted one folder of each class",
                lambda root, text: {"path": root / "x"}),
    "parts": (lambda draw: {"path": pictures(draw, "part_1", "part_2")}, "wanted a table of labels in data.table; where they are the classes, data.classes names them", lambda root, text: classes_csv(root, "part_1", "part_2")),
    "npz-both": (lambda draw: npz(draw, "", "train_", labels=np.arange(24) % 2), "beside ...; wanted the one or the others; data.splits: {...} reads the others", splits_named),
    "parquet-unknown": (holdout, "...: ...: in no split by the name, beside ... (...); wanted a split in every name, or in none; data.splits: {...} reads ... as test", splits_named),
    "flat-test": (lambda draw: {"path": pictures(draw, "train/a", "train/b", "test")}, "sort them into class folders, or leave them out: data.splits: {...}", splits_named),
    "seg": (seg, "named like splits, not like classes; data.splits: {...} reads the class folders in them", splits_named),
    "no-train": (no_train, "hold no class folders to train on; wanted train/<class>/<image>, or a table of labels in data.table", by_table),
    "texts": (texts, "wanted only class folders in ...; move it away, or name the classes in data.classes", lambda root, text: classes_csv(root, "a", "b")),
    "empty": (empty,
              "found no image of class ..., wanted at least one...; data.classes can leave the class out", lambda root, text: classes_csv(root, "a", "b")),
    "no-table": (lambda draw: {"path": pictures(draw, "a", "b"), "label_column": "label"}, "found no table that names pictures below ...; wanted null", lambda root, text: {"label_column": None}),
    "columns": (lambda draw: {"path": rows(draw, *(f"{row},{row[-1]}" for row in ids(["images"])), header="file,k,l")}, "columns (...), wanted one; data.label_column chooses", lambda root, text: {"label_column": "l"}),
    "one-label": (lambda draw: {"path": rows(draw, *(f"{row.split(',')[0]},x,{row[-1]}" for row in ids(["images"])), header="file,label,kind")}, "wanted a column with a label for every class, which data.label_column chooses",
                  lambda root, text: {"label_column": "kind"}),
    "lost": (lambda draw: {"path": rows(draw, *ids(["images"]), "lost.png,p")}, "rows name a picture that is not there: ...; data.skip_unreadable: true leaves them out", lambda root, text: {"skip_unreadable": True}),
    "two-tables": (two_tables, "both have a label of ...; data.table: ... chooses", named("table")),
    "twice": (twice,
              "row ...: ... can be ...; data.path chooses the folder of the pictures, with data.table: ...", lambda root, text: {"path": root / "images", **named("table")(root, text)}),
    "all-broken": (lambda draw: damaged(draw, [f"c/{n:02d}.png" for n in range(12)]), "images cannot be read, all of ..., which data.classes can leave out: ...", lambda root, text: classes_csv(root, "a", "b")),
    "broken": (lambda draw: damaged(draw, ["a/00.png", "b/00.png"]), "images cannot be read (data.skip_unreadable would leave them out)", lambda root, text: {"skip_unreadable": True}),
    "split-missing": (parts, "found splits ..., none to train on; data.splits names one", lambda root, text: {"splits": {"train": "one", "test": "two"}}),
    "split-twice": (lambda draw: {"path": pictures(draw, *(f"{s}/{c}" for s in ("train", "val", "valid") for c in "ab"))}, "splits ... are both ...; data.splits chooses", lambda root, text: {"splits": {"train": "train", "test": "val"}}),
    "split-unknown": (lambda draw: npz(draw, "train_", "odd_", labels=np.arange(24) % 2),
                      "is unknown; known: ...; data.splits says what each is, for example {train: train, test: ", lambda root, text: {"splits": {"train": "train", "test": "odd"}}),
    "unused": (lambda draw: npz(draw, "", labels=np.arange(24) % 2 * 2, class_names=np.array(["a", "b", "c"])) | classes_csv(draw(), "a", "b", "c"), "classes have no image: ...; wanted images of every class, or a list of the classes that have some in data.classes", lambda root, text: classes_csv(root, "a", "c")),
    "one-split": (lambda draw: npz(draw, "train_", labels=np.arange(24) % 3) | other_split(draw), "has images in ... and no image in the ... split...; rename it, add its images, or leave it out by a list in data.classes",
                  lambda root, text: classes_csv(root, "0", "1")),
    "tables": (hub, "have different class tables in column ...; download the files and name their folder in data.path", lambda root, text: {"name": None, "path": root / "hf"}),
    "configurations": (configurations, "holds several configurations (...); data.config chooses one", lambda root, text: {"config": "two"}),
    "split-word": (lambda draw: divided(draw, "train", "holdout"), "row ... has ... in the column ..., wanted train, validation or test; data.splits says what each is, for example ...", splits_named),
    "split-words": (lambda draw: divided(draw, "Training", "PublicTest", "PrivateTest"), "... and ... in the column ... are both ...; data.splits chooses, for example {...}", splits_named),
    "split-of-none": (lambda draw: tables_of(draw, "train", "test", "more"), "belongs to none of the splits ...; wanted it in a folder of one, in a table that is named like one, or a column split; data.splits names those to read alone", lambda root, text: {"splits": {"train": "train", "test": "test"}}),
    "split-table": (lambda draw: tables_of(draw, "labels_a", "labels_eval"), "is ... a split? wanted names with train, validation or test; data.splits: ... says it", splits_named),
    "no-label": (lambda draw: {"path": rows(draw, *(f"{row.split(',')[0]},,{row[-1]}" for row in ids(["images"])), header="file,label,kind")}, "none of its ... rows has a label; data.label_column chooses another column", lambda root, text: {"label_column": "kind"}),
    "counted": (counted, "the columns ... and ... both name pictures, and not the same ones (the first time ... rows below the header); data.image_column chooses", lambda root, text: {"image_column": "image_id"}),
    "lists": (lists, "row ... has several labels (...), wanted one label a picture; a list in data.classes says which are names of classes", lambda root, text: classes_csv(root, "p", "q", "p q")),
    "many-tables": (many_tables, "; ... tables lie there (...), of which data.table names the one with the labels", lambda root, text: {"table": "l.csv"}),
    "fractions": (lambda draw: {"path": pictures(draw, "a", "b", count=9), "test_fraction": 0.01, "validation_fraction": 0.01}, "cannot split ... images of ... classes, wanted larger fractions, or at least ... images a class",
                  lambda root, text: {"test_fraction": 0.3, "validation_fraction": 0.3}),
}  # fmt: skip


def matches(pattern, text):
    """Whether the parts of a pattern between its dots stand in a text, in this order."""
    return re.search(".*".join(map(re.escape, pattern.split("..."))), text) is not None


OTHERS = ("wants images in files (data.source imagefolder)", "captions are by file, wanted data.source: imagefolder", "one level too high",
          "has other labels for them, which data.table reads", "are in none of the splits", "splits that data.splits does not name are left out",
          "divides these pictures and is not used", "holds pictures of none of the other classes")  # checked by params before, by their own tests, or a warning  # fmt: skip


def test_all_advice_has_a_scenario():
    """A new message that names a key wants one."""
    patterns = [says for _, says, _ in SCENARIOS.values()]
    without = [text for text in advice() if not any(other in text for other in OTHERS)
               and not any(matches(pattern.strip("."), text) or matches(text.strip(". ;"), pattern) for pattern in patterns)]  # fmt: skip
    assert without == []
    assert len(advice()) > 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_advice_leads_to_data_that_are_read(draw, toy, tmp_path, scenario):
    """`prepare` refuses with the line; with the key that it names, `prepare` ends well."""
    from ims3core.pipeline import harness

    have, says, follow = SCENARIOS[scenario]
    keys = {"source": "imagefolder", "side": 6, "channels": 3, "validation_fraction": 0.2, "test_fraction": 0.2} | have(
        draw
    )

    def prepare(keys):
        given = {f"data__{key}": str(value) if isinstance(value, Path) else value for key, value in keys.items()}
        harness.run("prepare", toy(**given, eval__ipc=[1]), tmp_path)

    with pytest.raises(DataError) as error:
        prepare(keys)
    text = str(error.value)
    assert matches(says, text), text
    prepare(keys | follow(draw(), text))


def test_keys_and_commands_in_messages_exist():
    """Of the whole code: `ims3 NAME` is a command, `data.KEY` a key."""
    from ims3core.cli import app
    from ims3core.params.sections import Data

    commands = set(typer.main.get_command(app).commands)
    for text in messages("ims3core", "stages"):
        for name in re.findall(r"`ims3 ([a-z][a-z-]*)", text):
            assert name in commands, text
        for name in re.findall(r"\bdata\.([a-z_]+)\b(?![/(])", text):
            assert name in Data.model_fields, text
