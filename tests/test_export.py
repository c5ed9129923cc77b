"""Exports: others read them without this project, and they hold what we hold."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from ims3core import cli, data, export
from ims3core.base import files
from ims3core.data import distilled
from ims3core.diffusion import difffit, dit_layout, generator
from ims3core.errors import ArtifactError, ParameterError


@pytest.fixture(scope="module")
def project(build, toy_text):
    """A toy project with an adapted generator and a distilled set of real images and of generated ones."""
    upstream = (
        "prepare",
        "generator",
        "encoder",
        "latents",
        "finetune im",
        "guides none",
        "candidates im",
        "features im",
    )
    real = ("candidates real", "features real", "centroids real")
    return build(toy_text, *upstream, *real, "select ims3", "select random")


def test_folding_the_scales_changes_nothing(tiny_dit):
    """The output with scales and with them multiplied into the layers agree within 1e-5, and no scale is left."""
    difffit.add_scales(tiny_dit, 0.5)
    stream = torch.Generator().manual_seed(1)
    for name, parameter in tiny_dit.named_parameters():
        if "gamma" in name:
            parameter.data.uniform_(0.5, 1.5, generator=stream)
    z, t, label = torch.randn(4, 4, 4, 4, generator=stream), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        before = tiny_dit(z, t, label)
        difffit.fold_scales(tiny_dit)
        after = tiny_dit(z, t, label)
    assert not any("gamma" in name for name, _ in tiny_dit.named_parameters())
    assert (after - before).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_the_exported_generator_equals_base_and_delta_in_diffusers(project, tmp_path):
    """DiTPipeline loads it; its transformer gives the output of generator + delta within 1e-5; the card warns."""
    from diffusers import DiTPipeline

    export.export_generator(project, "im", tmp_path / "out")
    ours = generator.read_adapted(project / "data/generator", project / "data/adapted/im").eval()
    base = dit_layout.read_transformer(project / "data/generator/transformer").eval()
    theirs = DiTPipeline.from_pretrained(tmp_path / "out").transformer.eval()
    for block in theirs.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0
    z, t, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 1, 9, 10])
    with torch.no_grad():
        expected = ours(z, t, label)
        assert torch.allclose(theirs(z, timestep=t, class_labels=label).sample, expected, atol=1e-5)
        assert not torch.allclose(base(z, t, label), expected, atol=1e-5)
    card = (tmp_path / "out/README.md").read_text()
    assert "null class is 1000. This model's is 10" in card
    with pytest.raises(ArtifactError, match="exists already"):
        export.export_generator(project, "im", tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_an_exported_generator_knows_its_classes_by_name(project, tmp_path):
    """As the card says: names give the labels of the table, and an image; keys in the card are keys of params.yaml."""
    from diffusers import DiTPipeline

    export.export_generator(project, "im", tmp_path / "out")
    pipe, card = DiTPipeline.from_pretrained(tmp_path / "out"), (tmp_path / "out/README.md").read_text()
    rows = data.read_classes(project / "data/real/classes.json")
    assert pipe.get_label_ids([row.name for row in rows]) == [row.generator_label for row in rows]
    call = re.search(r"`(pipe\(pipe\.get_label_ids.*\))`", card)[1]
    pipe.set_progress_bar_config(disable=True)
    assert eval(call[:-1] + ", num_inference_steps=1)", {"pipe": pipe}).images  # noqa: S307
    keys = re.findall(r"`(\w+)\.(\w+)`", card)
    known = yaml.safe_load(Path("params.yaml").read_text())
    assert keys
    assert all(key in known[section] for section, key in keys)


def test_words_of_two_classes_name_neither():
    """ImageNet's two cranes are known by their folders; each other word gives its class."""
    rows = [data.ClassRow(0, "n02012849", 134, "crane"), data.ClassRow(1, "n03126707", 517, "crane, hoist")]
    assert export._id2label(rows) == {"134": "n02012849", "517": "n03126707, hoist"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["ims3", "random"])
def test_the_exported_set_holds_the_images(project, tmp_path, method):
    """`datasets` reads the folder; pixels, labels and class names are those of the ImageFolder tree."""
    import datasets
    import numpy as np

    export.export_set(project, method, 2, 1, tmp_path / "out")
    expected = distilled.read_set(project / f"data/distilled/{method}/ipc-2/draw-1")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))

    assert loaded["label"][:] == expected.class_index.tolist()
    assert loaded.features["label"].names == [row.name for row in data.read_classes(project / "data/real/classes.json")]
    for row, image in zip(loaded, expected.images, strict=True):
        assert np.array_equal(np.asarray(row["image"]), image[0].numpy())
    assert (loaded[0]["seed"] is None) == (method == "random")
    assert "n<1K" in (tmp_path / "out/README.md").read_text()
    assert not (tmp_path / "out/sources.csv").exists()  # drawn images, and digits, which lie in no files


@pytest.fixture(scope="module")
def photographs(build, toy_text, tmp_path_factory):
    """A project whose 60 pictures of three classes lie in folders; sets of random ones and of refined ones."""
    import numpy as np
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for n in range(60):
        place = folder / ("ant", "bee", "cat")[n % 3] / f"IMG_{n:02d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place)
    tree = yaml.safe_load(toy_text)
    tree["data"] |= {"source": "imagefolder", "path": str(folder)}
    tree["eval"] |= {"methods": ["random", "ims3_plus"]}
    tree["report"]["tsne_method"] = "random"
    tree["methods"]["s3_image"]["pool"] = "real"
    for name, row in list(tree["refinements"].items()):
        tree["refinements"][name] = row | {"start": "random"}
    lines = ("prepare", "generator", "encoder", "candidates real", "features real", "centroids real", "select random",
             "refine ims3_plus")  # fmt: skip
    return build(yaml.safe_dump(tree, sort_keys=False), *lines), folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["random", "ims3_plus"])
def test_others_open_the_exported_folders(photographs, tmp_path, monkeypatch, method):
    """torchvision and timm read train/ and test/ with one class table; test/ holds the pixels that were scored on."""
    import numpy as np
    import timm.data
    from torchvision.datasets import ImageFolder

    project, _ = photographs
    monkeypatch.chdir(project)
    cli.app(["export", "set", method, "2", str(tmp_path / "out")], standalone_mode=False)
    train, test = (ImageFolder(tmp_path / "out" / name) for name in ("train", "test"))
    assert train.class_to_idx == test.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    chosen = distilled.read_set(project / f"data/distilled/{method}/ipc-2/draw-0")
    held_out = data.read_split(project / "data/real/test")
    for folder, expected in ((train, chosen), (test, held_out)):
        found = [(label, np.asarray(image.convert("L")).tobytes()) for image, label in folder]
        pairs = zip(expected.class_index.tolist(), expected.images, strict=True)
        assert sorted(found) == sorted((label, image.numpy().tobytes()) for label, image in pairs)
    for split, folder in (("train", train), ("test", test)):
        theirs = timm.data.create_dataset("", root=str(tmp_path / "out"), split=split)
        assert [label for _, label in theirs] == [label for _, label in folder]


def test_a_real_image_is_traced_to_its_file(photographs, tmp_path):
    """By its pixels: the file that sources.csv names decodes to the exported image; drawn images have no such table."""
    import csv

    import numpy as np
    from PIL import Image

    project, folder = photographs
    export.export_set(project, "random", 2, 1, tmp_path / "out")
    with (tmp_path / "out/sources.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 and not (tmp_path / "out/test").exists()
    for row in rows:
        assert row["source_file"].startswith(row["class"] + "/")
        ours, theirs = (Image.open(path) for path in (tmp_path / "out" / row["file"], folder / row["source_file"]))
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_changed_image_is_not_exported(project, tmp_path):
    """Its file is named and nothing is written."""
    folder = project / "data/distilled/ims3/ipc-1/draw-0"
    path = folder / files.read_json(folder / "manifest.json")["images"][3]["file"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    try:
        with pytest.raises(ArtifactError, match=path.name):
            export.export_set(project, "ims3", 1, 0, tmp_path / "out")
    finally:
        path.write_bytes(whole)
    assert not (tmp_path / "out").exists()


def test_the_commands_write_where_they_are_told(project, tmp_path, monkeypatch, capsys):
    """`ims3 export generator` and `ims3 export set`; an unknown row is one line."""
    monkeypatch.chdir(project)
    cli.app(["export", "set", "ims3", "1", str(tmp_path / "set")], standalone_mode=False)
    cli.app(["export", "generator", "im", str(tmp_path / "g")], standalone_mode=False)
    assert (tmp_path / "set/data/train-00000-of-00001.parquet").is_file()
    assert "holds ims3, IPC 1, draw 0" in capsys.readouterr().out
    with pytest.raises(ParameterError, match="'nope' is unknown; known: none, im"):
        cli.app(["export", "generator", "nope", str(tmp_path / "h")], standalone_mode=False)


def test_a_set_for_dd_ranking_keeps_the_numbers_of_the_classes(project, tmp_path, monkeypatch):
    """An image folder of its own numbers the classes as we do, and the package reads its configuration."""
    from torchvision.datasets import ImageFolder

    monkeypatch.chdir(project)
    export.export_ddranking(Path(), "ims3", 2, 0, tmp_path / "out")
    manifest = files.read_json(Path("data/distilled/ims3/ipc-2/draw-0/manifest.json"))["images"]
    folder = ImageFolder(tmp_path / "out/images")

    assert len(folder) == 20
    assert [label for _, label in folder.samples] == sorted(entry["class_index"] for entry in manifest)
    config = pytest.importorskip("ddranking.config", reason="wants numpy below 2, so not beside this project")
    assert config.Config(str(tmp_path / "out/config.yaml")).get("ipc") == 2
