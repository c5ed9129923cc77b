"""Someone's own image folder with a pretrained generator: the same stages, files that stay in place, D8 impossible."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from ims3core import data
from ims3core.axes.samplers.dpm_solver import DPMSolver
from ims3core.base import files
from ims3core.diffusion import latents
from ims3core.errors import Ims3Error
from ims3core.ingest.readers import digits

LABELS = {"drei": 3, "eins": 1, "sieben": 7}


@pytest.fixture(scope="module")
def generator(build, toy_text):
    """A DiTPipeline folder of ten classes, trained for a few steps."""
    return build(toy_text, "prepare", "generator") / "data/generator"


def write_project(generator, toy_text, **changes):
    """Three digit classes as PNG files, a class list with the generator's labels, and the parameters."""
    listing = digits.read()
    for name, digit in LABELS.items():
        for n, image in enumerate(listing.items[listing.labels == digit][:40]):
            place = Path("photos") / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{n:03d}.png")
    Path("photos/other").mkdir()
    Image.fromarray(listing.items[0]).save("photos/other/x.png")
    rows = "\n".join(f"{name},{label}" for name, label in reversed(LABELS.items()))
    Path("classes.csv").write_text(f"folder,generator_label\n{rows}\n")
    tree = yaml.safe_load(toy_text)
    tree["data"] |= {"source": "imagefolder", "path": "photos", "classes": "classes.csv", "storage": "index"}
    tree["generator"] = {
        "source": "pretrained", "model": str(generator), "revision": None, "sha256": None, "heads": None, "vae": None,
        "time_features": "auto",
    }  # fmt: skip
    tree["eval"]["methods"] = ["random", "dit", "ims3"]
    tree["protocols"]["steps"]["side"] = 12
    for key, value in changes.items():
        section, name = key.split("__")
        tree[section][name] = value
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.mark.filterwarnings("ignore")
def test_the_whole_pipeline_runs_and_uses_the_generators_labels(tmp_path, monkeypatch, toy_text, generator, stage):
    """From files to page; fine-tuning and sampling use the generator's labels, students our class indices (D8)."""
    monkeypatch.chdir(tmp_path)
    write_project(generator, toy_text)
    asked = []
    sample = DPMSolver.sample

    def spy(self, denoiser, labels, *others):
        asked.append(labels)
        return sample(self, denoiser, labels, *others)

    monkeypatch.setattr(DPMSolver, "sample", spy)
    upstream = ("prepare", "generator", "encoder", "latents", "finetune none", "finetune im", "guides none", "teacher",
                "labels steps")  # fmt: skip
    for line in upstream:
        stage(*line.split())
    for pool in ("real", "dit", "im"):
        stage("candidates", pool)
        stage("features", pool)
    stage("centroids", "real")
    for method in ("random", "dit", "ims3"):
        stage("select", method)
        for ipc in (1, 2):
            stage("students", method, ipc, "convnet", "steps")
    stage("full_data", "convnet", "steps")
    stage("coverage")
    stage("report")

    table = data.read_classes(Path("data/real/classes.json"))
    assert [(row.name, row.class_index, row.generator_label) for row in table] == [
        ("sieben", 0, 7),
        ("eins", 1, 1),
        ("drei", 2, 3),
    ]
    cached, train = latents.read(Path("data/latents")), data.read_split(Path("data/real/train"))
    wanted = torch.tensor([7, 1, 3])
    assert torch.equal(cached.label, wanted[train.class_index])
    assert torch.equal(torch.cat(asked).unique(), torch.tensor([1, 3, 7]))
    assert not list(Path("data/real").rglob("images.npy"))
    cell = files.read_json(Path("metrics/cells/ims3-1-convnet-steps.json"))
    assert cell["classes"] == ["sieben", "eins", "drei"]
    assert "<html" in Path("reports/index.html").read_text()


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"data__side": 16}, "generator", r"data\.side: found 16 px, this generator makes 8 px"),
        ({"data__channels": 3}, "generator", r"data\.channels: found 3, the VAE of this generator wants 1"),
        ({"data__path": "nowhere"}, "prepare", r"data\.path: nowhere: no such folder"),
        ({"data__classes": "imagewoof"}, "prepare", r"data\.classes: 10 of 10 classes have no folder"),
        ({"data__classes": None}, "prepare", r"class drei has no generator_label"),
        ({"generator__model": "gone.pt", "generator__vae": "x"}, "generator", r"gone\.pt: no such file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_overwritten(
    tmp_path, monkeypatch, toy_text, generator, changes, name, message, stage
):
    """The culprit by key or file; outputs of an earlier run stay."""
    monkeypatch.chdir(tmp_path)
    write_project(generator, toy_text, **changes)
    if name == "generator":
        stage("prepare")
    old = Path("data") / {"generator": "generator", "prepare": "real"}[name] / "old.txt"
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_text("kept")
    with pytest.raises(Ims3Error, match=message):
        stage(name)
    assert old.read_text() == "kept"


def test_a_label_the_generator_does_not_know_stops_before_anything_is_made(
    tmp_path, monkeypatch, toy_text, generator, stage
):
    """The class and the generator's range are named."""
    monkeypatch.chdir(tmp_path)
    write_project(generator, toy_text)
    Path("classes.csv").write_text("folder,generator_label\ndrei,999\neins,1\n")
    stage("prepare")
    with pytest.raises(Ims3Error, match=r"class drei has generator_label 999, the generator knows 0\.\.9"):
        stage("generator")
    assert not Path("data/generator").exists()


def test_a_file_that_changed_since_prepare_is_noticed(tmp_path, monkeypatch, toy_text, generator, stage):
    """Images that stay where they are can be edited behind our back."""
    monkeypatch.chdir(tmp_path)
    write_project(generator, toy_text)
    stage("prepare")
    stage("generator")
    for path in Path("photos/eins").iterdir():
        shutil.copy("photos/drei/000.png", path)
    with pytest.raises(Ims3Error, match="its pixels changed since `ims3 prepare` ran"):
        stage("latents")


@pytest.mark.filterwarnings("ignore")
def test_a_timm_encoder_embeds_the_pool(tmp_path, monkeypatch, toy_text, generator, stage):
    """encoder.source timm with a local weights file: features of timm's dimension."""
    import timm

    monkeypatch.chdir(tmp_path)
    write_project(generator, toy_text)
    model = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    files.write_tensors(tmp_path / "w.safetensors", model.state_dict())
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["encoder"] = {"source": "timm", "network": "test_resnet.r160_in1k", "weights": "w.safetensors"}
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    stage("prepare")
    stage("encoder")
    stage("candidates", "real")
    stage("features", "real")

    found = files.read_tensors(Path("data/features/real/features.safetensors"))["features"]
    assert found.shape[1] == model.num_features
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)))
