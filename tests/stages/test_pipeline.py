"""The stages in process on the toy profile: every output, its promises, and bad input."""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ims3core import cli
from ims3core.base import compute, files
from ims3core.classifiers import training
from ims3core.diffusion import autoencoder
from ims3core.diffusion import training as diffusion_training
from ims3core.errors import ArtifactError, DataError, NumericsError, ParameterError
from ims3core.params import load
from ims3core.students import cell


def digest(*folders):
    """One hash over all files below the folders."""
    result = hashlib.sha256()
    for path in sorted(p for folder in folders for p in Path(folder).rglob("*") if p.is_file()):
        result.update(str(path).encode() + path.read_bytes())
    return result.hexdigest()


UPSTREAM = (
    "prepare", "generator", "encoder", "latents", "finetune none", "finetune im", "guides none", "teacher", "labels steps",
    *(f"{name} {pool}" for pool in ("real", "dit", "im") for name in ("candidates", "features")), "centroids real",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(build, toy_text):
    """A toy project that has run up to the centroids; tests copy it."""
    return build(toy_text, *UPSTREAM)


@pytest.fixture
def project(built, tmp_path, monkeypatch):
    """A private copy of the built toy project as the current directory."""
    shutil.copytree(built, tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p")
    return tmp_path / "p"


def test_students_of_another_side_ask_a_teacher_that_knows_one(project, stage):
    """A ConvNet's head fits images of one side; students that are trained at twice of it get its labels all the same."""
    stage("select", "random")
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["protocols"]["steps_soft"]["side"] = 16
    tree["eval"]["protocols"] = ["steps_soft"]
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    stage("labels", "steps_soft")
    stage("students", "random", 1, "convnet", "steps_soft")
    runs = files.read_json(Path("metrics/cells/random-1-convnet-steps_soft.json"))["runs"]
    assert len(runs) == 4 and all(0 <= run["last_top1"] <= 100 for run in runs)


@pytest.mark.filterwarnings("ignore")
def test_the_whole_grid_ends_in_tables_and_a_page(project, stage):
    """Select, students, full data and report produce every declared output, and a second run changes no byte."""
    params = load(Path("params.yaml"))

    def run():
        for method in params.methods:
            stage("select", method)
        for row in params.refinements:
            stage("refine", row)
        for method in params.eval.methods:
            for ipc in params.eval.ipc:
                stage("students", method, ipc, "convnet", "steps")
        stage("full_data", "convnet", "steps")
        stage("coverage")
        stage("report")

    run()
    first = digest("data", "metrics", "reports")
    run()

    assert digest("data", "metrics", "reports") == first
    table = Path("metrics/accuracy.csv").read_text().splitlines()
    assert table[0] == "method,ipc,student,protocol,draw,seed,last_top1,best_top1"
    assert len(table) == 1 + 8 * 2 * 2 * 2 + 2
    assert set(json.loads(Path("metrics/accuracy.json").read_text())["steps"]) == {*params.eval.methods, "full"}
    assert "<html" in Path("reports/index.html").read_text()
    cli.app(["report", "--markdown"], standalone_mode=False)


def test_the_generator_directory_loads_in_dit_pipeline(project):
    """The saved directory is a complete DiTPipeline."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import DiTPipeline

        pipeline = DiTPipeline.from_pretrained("data/generator")
    assert pipeline.transformer.config.num_embeds_ada_norm == 10
    assert pipeline.scheduler.config.clip_sample is False


def test_the_generator_directory_names_no_path(project):
    """Its files say nothing of where they were made, so that equal models are equal bytes in any checkout."""
    for path in Path("data/generator").rglob("*.json"):
        assert "scratch" not in path.read_text(), path


def test_a_distilled_set_is_an_image_folder_with_a_manifest(project, stage):
    """Each image has its place, seed, group and hash; torchvision's ImageFolder agrees on the classes."""
    from torchvision.datasets import ImageFolder

    stage("select", "s3")
    manifest = files.read_json(Path("data/distilled/s3/ipc-2/draw-1/manifest.json"))
    folder = ImageFolder("data/distilled/s3/ipc-2/draw-1/train")

    assert len(manifest["images"]) == len(folder) == 20
    assert [e["class_index"] for e in manifest["images"]] == [c for _, c in folder.samples]
    for entry in manifest["images"]:
        path = Path("data/distilled/s3/ipc-2/draw-1") / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert entry["index"] // 2 == entry["group"]
        assert entry["seed"] > 0


def test_draws_are_disjoint_and_ipc_is_a_slice(project, stage):
    """No candidate serves two draws; DiT's IPC 1 image is the first of its IPC 2 images."""
    stage("select", "dit")

    def seeds(ipc, draw):
        entries = files.read_json(Path(f"data/distilled/dit/ipc-{ipc}/draw-{draw}/manifest.json"))["images"]
        return [e["seed"] for e in entries]

    assert not set(seeds(2, 0)) & set(seeds(2, 1))
    assert set(seeds(1, 0)) < set(seeds(2, 0))


def test_another_method_leaves_the_candidates_alone(project, stage):
    """Selecting reads pools and features and changes neither."""
    before = digest("data/candidates", "data/features")
    stage("select", "ims3")
    assert digest("data/candidates", "data/features") == before


def test_a_compiled_network_sees_one_batch_size(project, monkeypatch, stage):
    """The last, smaller shard is padded, so nothing is compiled twice; the images are those of the unpadded one."""
    from ims3core.base import compute

    pool, sizes = project / "data/candidates/dit", set()
    plain = {path.name: files.read_tensors(path) for path in pool.glob("*.safetensors")}

    def for_inference(machine, network, **asked):
        network = network.to(machine.device, machine.dtype).eval()

        def call(z_t, t, label):
            sizes.add(len(z_t))
            return network(z_t, t, label)

        return call

    monkeypatch.setattr(compute.Machine, "for_inference", for_inference)
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["compute"]["compile"] = True
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    stage("candidates", "dit")
    assert sizes == {tree["candidates"]["batch_size"]}
    padded = {path.name: files.read_tensors(path) for path in pool.glob("*.safetensors")}
    assert padded.keys() == plain.keys()
    for name, shard in padded.items():
        assert torch.equal(shard["seed"], plain[name]["seed"])
        assert (shard["images"].int() - plain[name]["images"].int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["generator", "encoder", "teacher", "finetune", "candidates", "students"])
def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(project, name, monkeypatch, stage):
    """Killed half-way by an exception between two writes, the next run reuses the work; the output is identical."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["teacher"] = tree["encoder"] | {"norm": "batch"}
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    if name == "students":
        stage("select", "dit")
    row = {"finetune": ["im"], "candidates": ["dit"], "students": ["dit", 1, "convnet", "steps"]}.get(name, [])
    output = {"finetune": "data/adapted/im", "candidates": "data/candidates/dit",
              "students": "metrics/cells"}.get(name, f"data/{name}")  # fmt: skip
    stage(name, *row)
    expected = digest(output)
    shutil.rmtree(output)
    shutil.rmtree("scratch")  # else the parts of the first run would serve again
    real_write, written = files.replacing, []

    def dying(path):
        if "scratch" in str(path):
            written.append(path)
            if len(written) == 4:
                raise KeyboardInterrupt
        return real_write(path)

    monkeypatch.setattr(files, "replacing", dying)
    with pytest.raises(KeyboardInterrupt):
        stage(name, *row)
    monkeypatch.setattr(files, "replacing", real_write)
    left = {path.name for path in Path("scratch").rglob("*") if path.is_file()}
    assert left - {"lock", "holder", "timings.jsonl"}
    stage(name, *row)

    assert digest(output) == expected


@pytest.mark.parametrize("killed", [False, True], ids=["finished", "killed in the DiT"])
@pytest.mark.parametrize(("key", "value"), [("steps", 5), ("batch_size", 16), ("lr", 0.01), ("vae", None)])
def test_another_dit_keeps_the_vae(project, key, value, killed, monkeypatch, stage):
    """Only keys of the VAE train it again; the generator is, byte for byte, that of a training from scratch."""
    tree = yaml.safe_load(Path("params.yaml").read_text())
    if key == "vae":
        tree["generator"]["vae"]["steps"] += 1
    else:
        assert tree["generator"][key] != value
        tree["generator"][key] = value
    shutil.rmtree("scratch")
    with monkeypatch.context() as patch:
        if killed:
            patch.setattr(diffusion_training, "train", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt) if killed else contextlib.nullcontext():
            stage("generator")
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    trained, fit = [], autoencoder.fit_autoencoder
    monkeypatch.setattr(autoencoder, "fit_autoencoder", lambda *a, **k: trained.append(1) or fit(*a, **k))
    stage("generator")
    assert len(trained) == (key == "vae")
    found = digest("data/generator")
    shutil.rmtree("scratch")
    stage("generator")
    assert digest("data/generator") == found


@pytest.mark.parametrize(
    ("name", "taken", "compiled"),
    [("encoder", 1, False), ("encoder", 3, False), ("encoder", 4, False), ("encoder", 3, True)]
    + [("teacher", 1, False), ("teacher", 3, False), ("teacher", 4, False)],
)
def test_a_classifier_is_trained_on_from_its_checkpoint(project, name, taken, compiled, monkeypatch, stage):
    """Killed after ``taken`` of its 4 steps it takes the others only, also where the last one is all that is there."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)
    parts, compile_parts = [], compute.compile_parts
    monkeypatch.setattr(compute, "compile_parts", lambda made: parts.append(made) or compile_parts(made))
    tree = yaml.safe_load(Path("params.yaml").read_text())
    if compiled:
        monkeypatch.setattr(cell, "COMPILING_PAYS_SMALL", 1)
        tree["compute"]["compile"] = True
        shutil.rmtree("scratch")  # the project's own, which is not compiled
    tree["teacher"] = tree["encoder"] | {"norm": "batch"}
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    stage(name)
    expected, steps, train = digest(f"data/{name}"), [], training.train
    shutil.rmtree("scratch")
    shutil.rmtree(f"data/{name}")

    def killed(*arguments, **options):
        for state in train(*arguments, **options):
            steps.append(state.step)
            yield state
            if len(steps) == taken:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        stage(name)
    stage(name)

    assert steps == [1, 2, 3, 4]
    assert digest(f"data/{name}") == expected
    assert len(parts) == 3 * compiled


@pytest.mark.parametrize(
    ("path", "command", "message"),
    [
        (
            "data/generator/transformer/diffusion_pytorch_model.safetensors",
            ("finetune", "im"),
            "diffusion_pytorch_model",
        ),
        ("data/latents/mean.npy", ("finetune", "im"), r"mean\.npy"),
        ("data/encoder/weights.safetensors", ("features", "dit"), r"weights\.safetensors"),
        ("data/candidates/dit/shard-00000.safetensors", ("features", "dit"), r"shard-00000"),
        ("data/real/train/images.npy", ("encoder",), r"images\.npy"),
    ],
    ids=["transformer", "latents", "encoder", "shard", "split"],
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_input_is_named_and_nothing_is_overwritten(project, path, command, message, damage, stage):
    """The error names the file; the stage's earlier output is untouched."""
    path = Path(path)
    shutil.rmtree("scratch")  # else units of the first run would serve, and no encoder be opened
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    before = digest("data")

    with pytest.raises(ArtifactError, match=message):
        stage(*command)

    assert digest("data") == before


def test_more_guided_channels_than_latents_is_refused(project, stage):
    """The error names the key and the generator's channels."""
    text = Path("params.yaml").read_text().replace("guided_channels: 1", "guided_channels: 9")
    Path("params.yaml").write_text(text)
    with pytest.raises(ParameterError, match=r"dpm_solver\.guided_channels: found 9, the generator's latents have 1"):
        stage("candidates", "dit")


def test_a_label_outside_the_generator_is_refused(project, stage):
    """A class table that asks for label 10 of a 10-class generator stops before sampling."""
    rows = json.loads(Path("data/real/classes.json").read_text())
    rows[0]["generator_label"] = 10
    Path("data/real/classes.json").write_text(json.dumps(rows))
    Path("data/real/manifest.json").unlink()  # which would say that the table was changed
    with pytest.raises(ArtifactError, match=r"has generator_label 10, the generator knows 0\.\.9"):
        stage("candidates", "dit")


def test_an_ipc_larger_than_a_class_is_refused(toy, stage):
    """The error names the class and its size."""
    toy(eval__ipc=[500], candidates__per_class=1000)
    with pytest.raises(DataError, match=r"eval\.ipc: 500 images per class are asked for, class . has 12\d"):
        stage("prepare")


def test_a_diverging_training_stops_with_the_step(project, stage):
    """An absurd learning rate ends in one line, and the old generator stays."""
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["generator"]["lr"] = 1e30
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    before = digest("data/generator")
    with pytest.raises(NumericsError, match=r"loss is (nan|inf) at step"):
        stage("generator")
    assert digest("data/generator") == before


def test_features_have_unit_norm_and_centroids_too(project):
    """What selection compares lies on the sphere."""
    features = files.read_tensors(Path("data/features/dit/features.safetensors"))["features"]
    centroids = files.read_tensors(Path("data/centroids/real/centroids.safetensors"))["centroids"]
    for vectors in (features, centroids):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors), dtype=vectors.dtype))
