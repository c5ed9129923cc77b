"""Captions: one per training image, appended as they come, never asked for twice."""

import csv

import pytest
import yaml
from PIL import Image

from ims3core.errors import ParameterError
from ims3core.ingest import captions

pipelines = pytest.importorskip("transformers.pipelines")


@pytest.fixture(params=["index", "pixels"])
def project(request, build, toy_text, tmp_path):
    """Prepared pictures, which stay where they are or are decoded once."""
    for n in range(24):
        (tmp_path / "photos" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * n).save(tmp_path / "photos" / "ab"[n % 2] / f"{n}.png")
    tree = yaml.safe_load(toy_text)
    tree["data"] |= {"source": "imagefolder", "path": str(tmp_path / "photos"), "storage": request.param}
    return build(yaml.safe_dump(tree, sort_keys=False), "prepare")


def stand_in(asked, dies_after=10**6):
    """What transformers' pipeline looks like from here; no captioning model fits a test."""

    def ask(*, text, **options):
        assert options["do_sample"] is False
        picture = text[0]["content"][0]["image"]
        assert picture.mode == "RGB"
        if len(asked) == dies_after:
            raise KeyboardInterrupt
        asked.append(picture.getpixel((0, 0))[0])
        return [{"generated_text": f"grey,\n {asked[-1]}"}]

    return ask


def test_every_image_is_asked_once_even_when_killed(project, tmp_path, monkeypatch):
    asked, target = [], tmp_path / "captions.csv"
    monkeypatch.setattr(pipelines, "pipeline", lambda task, model: stand_in(asked, dies_after=5))
    with pytest.raises(KeyboardInterrupt):
        captions.write(project, "model", target)
    monkeypatch.setattr(pipelines, "pipeline", lambda task, model: stand_in(asked))
    new = captions.write(project, "model", target)
    rows = list(csv.DictReader(target.read_text().splitlines()))
    train = captions.read_split(project / "data/real/train")
    images = train.images
    assert new == len(images) - 5
    assert [row["file"] for row in rows] == train.names
    for name, image in zip(train.names, images, strict=True):
        with Image.open(tmp_path / "photos" / name) as picture:
            assert picture.getpixel((0, 0)) == int(image[0, 0, 0])
    assert [row["caption"] for row in rows] == [f"grey, {int(images[n][0, 0, 0])}" for n in range(len(images))]
    assert len(asked) == len(images)
    assert captions.write(project, "model", target) == 0


def test_arrays_have_no_files_to_name(build, toy_text, tmp_path):
    root = build(toy_text, "prepare")
    with pytest.raises(ParameterError, match=r"captions are by file, wanted data\.source: imagefolder"):
        captions.write(root, "model", tmp_path / "captions.csv")
    assert captions.read_split(root / "data/real/train").names is None
    assert not list((root / "data/real").rglob("index.csv"))
