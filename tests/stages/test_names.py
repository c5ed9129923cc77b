"""Class names as people write them survive into folders, pictures, the page and the cards; none leads outside."""

from html import escape
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ims3core import export
from ims3core.data import read_classes

NAMES = ("🐝 bee", "a|b", "$x$ and $y$", "<b>bold & co", "new\nline", "tab\there", "train", "漢字")
LINES = (
    "prepare", "generator", "encoder", "teacher", "latents", "finetune none", "guides none", "candidates real",
    "candidates dit", "features real", "features dit", "centroids real", "select random", "select dit", "labels steps",
    "students random 1 convnet steps", "students dit 1 convnet steps", "full_data convnet steps", "coverage", "report",
)  # fmt: skip


def parameters(toy_text, **data):
    tree = yaml.safe_load(toy_text)
    tree["data"] |= {"classes": None, **data}
    tree["eval"] |= {"methods": ["random", "dit"], "ipc": [1], "draws": 1, "seeds": 1}
    tree["methods"] = {name: tree["methods"][name] for name in ("random", "dit")}
    tree["refinements"] = {}
    tree["adaptations"] = {"none": tree["adaptations"]["none"]}
    tree["pools"] = {name: tree["pools"][name] for name in ("real", "dit")}
    tree["candidates"]["per_class"] = 2
    tree["report"]["tsne_method"] = "dit"
    tree["coverage"] |= {"k": 1}
    return yaml.safe_dump(tree, sort_keys=False)


@pytest.fixture(scope="module")
def built(build, toy_text, tmp_path_factory):
    """Eight classes of ten images, and everything that follows to the report."""
    photos = tmp_path_factory.mktemp("photos")
    stream = np.random.default_rng(0)
    for name in NAMES:
        (photos / name).mkdir()
        for n in range(10):
            Image.fromarray(stream.integers(0, 256, (8, 8), dtype=np.uint8)).save(photos / name / f"{n}.png")
    # beside other classes a folder called train is a class
    return build(parameters(toy_text, source="imagefolder", path=str(photos)), *LINES)


def test_every_name_reaches_the_page_as_text(built):
    page = (built / "reports/index.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page
    for name in NAMES:
        assert escape(name, quote=False) in page.replace("&#39;", "'"), name


def test_every_name_has_its_folder_inside_the_set(built):
    train = built / "data/distilled/dit/ipc-1/draw-0/train"
    assert sorted(path.name for path in train.iterdir()) == sorted(NAMES)
    assert all(len(list(path.iterdir())) == 1 for path in train.iterdir())


def test_a_card_keeps_its_table(built, tmp_path):
    """One line and four bars per class, whatever is in its name."""
    export.export_set(built, "dit", 1, 0, tmp_path / "set")
    lines = [
        line for line in (tmp_path / "set/README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    rows = [line for line in lines if line.split("|")[1].strip().isdigit()]
    assert len(rows) == len(NAMES) == len(read_classes(built / "data/real/classes.json"))
    for line in rows:
        assert line.replace("\\|", "").count("|") == 4
    assert any("a\\|b" in line for line in rows)
    assert any("\\<b\\>bold" in line for line in rows)


def test_no_name_of_an_archive_leads_outside(build, toy_text, tmp_path):
    """Slashes become underscores before anything is a folder."""
    stream = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz", images=stream.integers(0, 256, (24, 8, 8), dtype=np.uint8), labels=np.arange(24) % 2,
        class_names=np.array(["../../../outside", "C:\\Windows"]),
    )  # fmt: skip
    root = build(parameters(toy_text, source="npz", path=str(tmp_path / "a.npz")), "prepare")
    names = [row.name for row in read_classes(root / "data/real/classes.json")]
    assert all(Path(name).name == name and not name.startswith(".") and "\\" not in name for name in names), names
