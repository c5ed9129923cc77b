"""`ims3 new`: what it sees in a folder, what a budget buys, what it writes, and what it refuses in one line."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ims3core import cli
from ims3core.base import files, measurements
from ims3core.diffusion.dit import DitConfig
from ims3core.params import load
from ims3core.params.sections import Data, TrainedGenerator
from ims3core.pipeline import harness, profiles
from ims3core.planning import begin, folder, rates, rungs
from tests.conftest import REPOSITORY

RATES = dict.fromkeys(rates.KINDS, 1e11)  # of a machine that is always the same
WNIDS = ("n01440764", "n02102040", "n02979186")


@pytest.fixture(autouse=True)
def project(tmp_path, tmp_path_factory, monkeypatch):
    """A folder with the profiles, on a machine of fixed rates; every network is counted once for all tests."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "profiles", "profiles")
    shutil.copy(REPOSITORY / "dvc.yaml", "dvc.yaml")
    monkeypatch.setattr(rungs, "machine_rates", lambda params, root, size: RATES)
    counted = tmp_path_factory.getbasetemp() / "plan-cache"
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(counted))
    return tmp_path


def pictures(counts, *, path="pictures", side=40, grey=False, names=None):
    """Class folders with so many different pictures each; every second one is wider than high."""
    rng = np.random.default_rng(0)
    for label, count in enumerate(counts):
        place = Path(path) / (names[label] if names else f"class{label:03d}")
        place.mkdir(parents=True)
        for n in range(count):
            shape = (side, side + n % 2 * 8) if grey else (side, side + n % 2 * 8, 3)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(place / f"{n}.png")
    return path


def ims3(*words):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return stop.value.code


def look(path):
    base = profiles.resolved(profiles.merged(Path(), "folder"), "folder")
    return folder.look(path, base.data, base.seed)


def test_a_profile_is_no_wider_where_the_processor_has_a_long_name(monkeypatch):
    """As those of most laptops are."""
    monkeypatch.setattr(begin, "processor", lambda _: "12th Gen Intel(R) Core(TM) i7-1260P with Radeon Graphics")
    pictures([40, 40, 40])
    assert ims3("new", "mine", "pictures") == 0
    text = Path("profiles/mine.yaml").read_text()
    assert "on 12th Gen" in text and max(map(len, text.splitlines())) <= 120


def test_a_folder_becomes_a_profile_that_is_in_use(capsys):
    """Ten lines that end with the next command, a profile of 10 to 20 lines, and the params.yaml of `ims3 use`."""
    pictures([40, 40, 40])
    assert ims3("new", "mine", "pictures") == 0
    lines, params = capsys.readouterr().out.splitlines(), load(Path("params.yaml"))
    assert len(lines) <= 10 and all(len(line) < 300 for line in lines)
    assert lines[0].startswith(
        "saw      3 classes, 84 pictures to train on, 12 to choose settings on, 24 to test; 40 px col"
    )
    assert lines[-1] == "next     dvc repro, then open reports/index.html"
    text = Path("profiles/mine.yaml").read_text()
    assert 8 <= len(text.splitlines()) <= 20 and max(map(len, text.splitlines())) <= 120
    assert params.tree == profiles.read(Path(), "mine").tree and profiles.diff(Path(), None) == []
    assert params.eval.methods == ["random", "herding", "ims3_plus"] and params.eval.ipc == [1, 10]
    assert params.generator.source == "none" and not params.needs_generator
    assert params.methods["s3_image"].pool == "real" and params.data.channels == 3


@pytest.mark.parametrize("budget", ["8m", "17m", "30m", "2h", "20h"])
def test_the_budget_buys_the_largest_settings_that_fit(budget):
    """By trying all of them: the first in the list whose plan fits; what is named as larger does not."""
    pictures([40, 40])
    limit = begin.budget_seconds(budget)
    made = begin.Beginning(Path(), begin.Wish("mine", "pictures", budget_s=limit))
    ladder = rungs.Ladder(made.parameters, Path(), made.folder.size, decode_s=made.folder.decode_s)
    every = rungs.rungs(40, side=None, gpu=False, trains=False, pretrained=False)
    fitting = [rung for rung in every if ladder.planned(rung).seconds <= rungs.MARGIN * limit]
    assert made.plan.rung == fitting[0] and {rung.side for rung in every} == {40, 32}
    if fitting[0] != every[0]:
        larger = made.plans[0]
        assert larger.rung == every[every.index(fitting[0]) - 1]
        again = begin.Wish("mine", "pictures", budget_s=begin.budget_seconds(begin.enough(larger.seconds)))
        assert begin.Beginning(Path(), again).plan.rung == larger.rung


def test_splits_are_those_of_prepare(stage):
    """Whatever the classes hold: as many images of each class in each split as `prepare` then writes."""
    pictures([40, 11, 23])
    assert ims3("new", "mine", "pictures", "--ipc", 1, "--budget", "2h") == 0
    seen = look("pictures")
    harness.run("prepare", load(Path("params.yaml")), Path())
    for split, counts in seen.images.items():
        made = files.read_tensors(Path(f"data/real/{split}/labels.safetensors"))["class_index"]
        assert np.bincount(made.numpy(), minlength=3).tolist() == counts.tolist()
    assert seen.smallest == ("class001", int(seen.images["train"][1]))


def test_brought_splits_and_what_is_left_out_are_said(capsys):
    """val stands in for a missing test; a text file among pictures and hidden files are no pictures."""
    pictures([20, 20], path="pictures/train")
    pictures([5, 5], path="pictures/val")
    Path("pictures/train/class000/notes.txt").write_text("not a picture")
    Path("pictures/train/class000/.DS_Store").write_text("hidden")
    assert ims3("new", "mine", "pictures", "--budget", "2h") == 0
    out = capsys.readouterr().out
    assert "note     1 of 51 files are no pictures: train/class000/notes.txt (a text)\n" in out
    assert "no test split, val takes its place" in out and "36 pictures to train on, 4 to choose" in out
    harness.run("prepare", load(Path("params.yaml")), Path())
    assert files.read_json(Path("data/real/manifest.json"))["facts"]["skipped"] == 1


@pytest.mark.parametrize("kind", ["grey", "npz", "parquet", "parquet file", "many"])
def test_other_kinds_of_pictures(kind):
    """Grey ones keep their 28 px and no mirror image; arrays, parquet, and a hundred classes of twenty pictures."""
    rng, path = np.random.default_rng(1), "pictures"
    if kind == "npz":
        path = "pictures.npz"
        np.savez(path, images=rng.integers(0, 256, (60, 28, 28), dtype=np.uint8), labels=np.arange(60) % 3)
    elif kind.startswith("parquet"):
        import datasets

        values = {"image": [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(60)],
                  "label": [f"kind {n % 3}" for n in range(60)]}  # fmt: skip
        table = datasets.Dataset.from_dict(values).cast_column("image", datasets.Image())
        Path("pictures").mkdir()
        table.to_parquet("pictures/all.parquet")
        path = "pictures" if kind == "parquet" else "pictures/all.parquet"
    elif kind == "many":
        pictures([20] * 100, side=8)
    else:
        pictures([30, 30], side=28, grey=True)
    assert ims3("new", "mine", path, "--budget", "9h") == 0
    params, seen = load(Path("params.yaml")), look(path)
    assert params.data.channels == (1 if kind in ("grey", "npz") else 3)
    assert params.data.side == {"grey": 28, "npz": 28, "many": 8}.get(kind, 40)
    assert params.augment.flip == (0.0 if kind in ("grey", "npz") else 0.5)
    assert len(seen.names) == {"grey": 2, "many": 100}.get(kind, 3)
    harness.run("prepare", params, Path())


@pytest.mark.filterwarnings("ignore")
def test_two_classes_reach_the_page(stage, caplog):
    """Every stage of what was written runs, without a generator, to a page and an answer."""
    pictures([24, 24], side=12)
    small = (
        "protocols.steps.steps=2",
        "encoder.steps=2",
        "eval.draws=2",
        "report.tsne_real=4",
        "compute.compile=false",
    )
    refined = "refinements.ims3_plus.set={networks: 1, train_steps: {1: [1, 1]}, iterations: {1: 1}, interpolate: true}"
    assert ims3("new", "mine", "pictures", "--ipc", 1, 2, *small, refined, "--budget", "9h") == 0
    params = load(Path("params.yaml"))
    lines = ["prepare", "generator", "encoder", "teacher", "latents", "finetune none", "guides none", "candidates real",
             "features real", "centroids real", "select random", "select herding", "select s3_image", "refine ims3_plus",
             "labels steps"]  # fmt: skip
    lines += [f"students {row} {ipc} convnet steps" for row in params.eval.methods for ipc in (1, 2)]
    for line in [*lines, "full_data convnet steps", "coverage"]:
        stage(*line.split())
    caplog.set_level("INFO")
    stage("report")
    said = [record.getMessage() for record in caplog.records if " where all 33 reach " in record.getMessage()]
    assert len(said) == 1 and re.match(r"2 images per class reach \d+ % where all 33 reach \d+ %\.$", said[0])
    assert said[0] in Path("reports/index.html").read_text()


def test_a_class_too_small_is_said_or_asked_away(capsys):
    """With its name and what it has: an error for an IPC that was asked for, a smaller one with --fewer or by default."""
    pictures([40, 12])
    assert ims3("new", "mine", "pictures", "--ipc", 1, 10, 50, "--budget", "2h") == 2
    err = capsys.readouterr().err
    assert "--ipc: found 50, class class001 has 8 pictures to train on; --fewer takes 8 of every class" in err
    assert not Path("profiles/mine.yaml").exists() and not Path("params.yaml").exists()
    assert ims3("new", "mine", "pictures", "--ipc", 1, 10, 50, "--fewer", "--budget", "2h") == 0
    assert "50 became 8: class class001" in capsys.readouterr().out
    assert load(Path("params.yaml")).eval.ipc == [1, 8]
    assert ims3("new", "other", "pictures", "--budget", "2h") == 0
    assert load(Path("params.yaml")).eval.ipc == [1, 8]


@pytest.mark.parametrize(
    ("counts", "words", "message"),
    [
        (None, [], r"data\.path: pictures: no such folder or file"),
        ([], [], r"data\.path: pictures: found no class folders"),
        ([30], [], r"data\.path: pictures: found one class, 'class000'; wanted at least two"),
        ([9, 9], ["data.source=npz"], r"data\.path: pictures: not a file"),
        ([40, 3], [], r"data\.path: pictures: class class001 has no validation image, .*; add some, or move"),
        ([40, 2], [], r"data\.path: pictures: class class001 .*; add some, or move its folder away"),
        (
            [9, 9],
            ["--budget", "2s"],
            r"--budget: 2 s are too few: .*the smallest run here .*; the smallest budget .* \d+m",
        ),
        ([9, 9], ["--budget", "soon"], r"--budget: found 'soon', wanted a time like 30m"),
        ([9, 9], ["--row", "moon"], r"--row: found 'moon'; known: .*herding"),
        ([9, 9], ["--row", "ims3"], r"--row: ims3 wants a generator, .*; --generate trains one"),
        ([9, 9], ["7"], r"7: found beside NAME and FOLDER"),
        ([9, 9], ["s3.alhpa=1"], r"params\.yaml has no key 's3\.alhpa'"),
        ([9, 9], ["--ipc", "1", "x"], r"x: found beside NAME and FOLDER"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(counts, words, message, capsys):
    """The culprit, what was found, and what is wanted."""
    Path("pictures").mkdir() if counts == [] else pictures(counts, side=8) if counts else None
    assert ims3("new", "mine", "pictures", *words) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1 and len(err) < 600
    assert not Path("profiles/mine.yaml").exists() and not Path("params.yaml").exists()


def test_keys_of_data_decide_what_is_seen(capsys):
    """Which split is the test, and which classes count."""
    for part in ("train", "exam"):
        pictures([20, 20, 20], path=f"pictures/{part}", side=8)
    Path("two.csv").write_text("folder\nclass002\nclass000\n")
    words = ("data.splits={train: train, test: exam}", "data.classes=two.csv", "--budget", "2h")
    assert ims3("new", "mine", "pictures", *words) == 0
    assert "saw      2 classes, 36 pictures to train on, 4 to choose settings on, 40 to test" in capsys.readouterr().out
    harness.run("prepare", load(Path("params.yaml")), Path())
    assert files.read_json(Path("data/real/test/manifest.json"))["facts"]["images"] == 40


def test_a_budget_below_what_reading_takes_says_so(monkeypatch, capsys):
    """Decoding alone is beyond it."""
    pictures([9, 9], side=8)
    monkeypatch.setattr(folder, "_decoded", lambda listing, rows: (False, 100.0))
    assert ims3("new", "mine", "pictures", "--budget", "1m") == 2
    assert re.search(
        r"--budget: 60 s are too few: reading the pictures alone takes about \d+ min", capsys.readouterr().err
    )


def test_names_that_exist_and_edits_are_kept(capsys):
    """Neither a profile nor a params.yaml with changes of somebody's own is overwritten without --force."""
    pictures([9, 9], side=8)
    for name, message in (("digits", "profiles/digits.yaml: exists already"), ("My Birds", "NAME: found 'My Birds'")):
        assert ims3("new", name, "pictures", "--budget", "2h") == 2
        assert message in capsys.readouterr().err
    assert ims3("use", "digits") == 0
    edited = Path("params.yaml").read_text().replace("alpha: 0.4 ", "alpha: 0.7 ")
    Path("params.yaml").write_text(edited)
    assert ims3("new", "mine", "pictures", "--budget", "2h") == 2
    assert "which --force would lose: s3.alpha: 0.7" in capsys.readouterr().err
    assert not Path("profiles/mine.yaml").exists() and Path("params.yaml").read_text() == edited
    assert ims3("new", "mine", "pictures", "--budget", "2h", "--force") == 0


def test_a_row_can_be_asked_for():
    """It is featured beside those that are always there; every key can be set, in the profile too."""
    pictures([20, 20], side=8)
    words = ("--row", "dm", "--budget", "20h", "eval.seeds=4", "data.side=6")
    assert ims3("new", "mine", "pictures", *words) == 0
    params = load(Path("params.yaml"))
    assert params.eval.methods == ["random", "herding", "ims3_plus", "dm"] and params.report.tsne_method == "dm"
    assert (params.eval.seeds, params.data.side) == (4, 6)
    assert yaml.safe_load(Path("profiles/mine.yaml").read_text())["eval"]["seeds"] == 4


def test_with_a_generator_of_ones_own():
    """--generate adds DiT and IMS3; IMS3+ stays on real pictures."""
    pictures([20, 20], side=16)
    assert ims3("new", "mine", "pictures", "--generate", "--row", "ims3", "--budget", "20h") == 0
    params = load(Path("params.yaml"))
    assert params.eval.methods == ["random", "herding", "dit", "ims3", "ims3_plus"]
    assert isinstance(params.generator, TrainedGenerator) and params.generator.steps == max(rungs.TRAINED)
    assert params.lineage("ims3_plus") == ("s3_image", ["ims3_plus"]) and params.methods["s3_image"].pool == "real"


@pytest.mark.parametrize(("side", "latent"), [(8, 8), (28, 14), (32, 8), (40, 10), (64, 8), (128, 8), (30, 15)])
def test_latents_of_ones_own_generator_are_small(side, latent):
    """About 8 x 8, so that minutes are enough, and a whole number of patches."""
    tree = rungs.own_generator(side, 1000)
    made = TrainedGenerator.checked(tree, "generator")
    assert side // 2 ** (len(made.vae.widths) - 1) == latent and latent % made.dit.patch == 0
    DitConfig(channels=4, side=latent, classes=2, **made.dit.model_dump())


def test_a_generator_that_knows_the_classes_is_taken_on_a_gpu(monkeypatch):
    """Folders named by WordNet ids: DiT-XL/2 with IMS3 and IMS3+; without a GPU only if it is asked for."""
    pictures([20] * 3, side=64, names=WNIDS)
    made = begin.Beginning(Path(), begin.Wish("mine", "pictures", budget_s=1e5))
    assert not made.pretrained and made.family == "folder"
    asked = begin.Beginning(Path(), begin.Wish("mine", "pictures", budget_s=1e9, generate=True))
    params = asked.plan.params
    assert params.generator.model == "facebook/DiT-XL-2-256" and params.data.side == 256
    assert params.eval.methods == begin.GENERATED_ROWS and params.eval.students == ["resnetap10"]
    assert params.data.classes is None and params.lineage("ims3_plus")[0] == "s3_image"
    assert len(asked.text().splitlines()) <= 20


@pytest.mark.parametrize(
    ("text", "wanted"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("45", 2700), ("1.5h", 5400)]
)
def test_budgets(text, wanted):
    """Hours, minutes, seconds; a bare number is minutes."""
    assert begin.budget_seconds(text) == wanted


def test_a_picture_that_only_seems_one_is_left_to_prepare():
    """A whole header before broken data is decoded for colour and time without an end."""
    pictures([9, 9], side=8)
    path = Path("pictures/class000/0.png")
    path.write_bytes(path.read_bytes()[:60])
    assert look("pictures").size.classes == 2


def test_the_shares_of_splits_are_those_of_the_profile():
    """A larger test share leaves less to train on."""
    pictures([20, 20], side=8)
    base = profiles.resolved(profiles.merged(Path(), "folder"), "folder").data
    more: Data = base.model_copy(update={"test_fraction": 0.5})
    assert folder.look("pictures", more, 0).size.test == 20 and folder.look("pictures", base, 0).size.test == 8


def test_one_class_says_which_folder_was_meant(capsys):
    """What an archive unpacks to: a folder with the class folders in it."""
    pictures([9, 9], path="pictures/flowers", side=8)
    assert ims3("new", "mine", "pictures") == 2
    assert "its folders class000, class001 are probably meant: data.path: pictures/flowers" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["train/0000.parquet", "default/train/0000.parquet", "saved", "top/saved"])
@pytest.mark.parametrize("words", [[], ["data.source=huggingface"]], ids=["found", "given"])
def test_parquet_and_saved_data_sets_are_found_deeper(place, words):
    """Where the hub and ``save_to_disk`` put them."""
    import datasets

    if (place, words) == ("top/saved", ["data.source=huggingface"]):
        return  # the folder of the saved data set is to be given
    rng = np.random.default_rng(1)
    values = {
        "image": [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(24)],
        "label": list("ab") * 12,
    }
    table = datasets.Dataset.from_dict(values).cast_column("image", datasets.Image())
    Path("set", place).parent.mkdir(parents=True)
    if place.endswith("parquet"):
        table.to_parquet(f"set/{place}")
    else:
        table.save_to_disk(f"set/{place}")
    path = "set/saved" if place == "saved" and words else "set"
    base = profiles.resolved(profiles.merged(Path(), "folder"), "folder")
    seen = folder.look(path, base.data, base.seed, *(word.split("=")[1] for word in words))
    assert (seen.section["source"], seen.names, seen.size.train) == ("huggingface", ["a", "b"], 16)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.zip", b"PK\3\4", "x.zip: a zip archive; wanted it unpacked"), ("x.tar.gz", b"\x1f\x8b\x08", "x.tar.gz: a gzip archive; wanted it unpacked"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", "x.h5: an HDF5 file, wanted a folder"), ("x.csv", b"file,label\n", "data.table=x.csv for their labels"),
    ],
)  # fmt: skip
def test_a_file_in_the_place_of_the_folder_is_called_what_it_is(name, content, says, capsys):
    """And what to do with it."""
    Path(name).write_bytes(content)
    assert ims3("new", "mine", name) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1e3", "0o17", "2024-01-02", "yes"])
def test_a_folder_may_be_called_like_a_number(name):
    """Its name stays text in the profile and in params.yaml."""
    pictures([12, 12], path=name, side=8)
    assert ims3("new", "mine", name, "--budget", "9h") == 0
    assert load(Path("params.yaml")).data.path == name


def heic(path, count=12, start=0):
    """Files that begin like HEIC, with a PNG inside for the stand-in of the package that reads them."""
    import io

    Path(path).mkdir(parents=True)
    for n in range(count):
        pixels = np.random.default_rng(start + n).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream := io.BytesIO(), "PNG")
        Path(path, f"{n}.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + stream.getvalue())


def test_heic_is_seen_where_the_package_is_installed(monkeypatch):
    """As `prepare` reads them."""
    import io
    import sys
    from types import SimpleNamespace

    from PIL import PngImagePlugin

    from ims3core.data import decode

    heic("pictures/a")
    heic("pictures/b", start=50)

    def inside(stream, name=None):
        with stream:
            return PngImagePlugin.PngImageFile(io.BytesIO(stream.read()[24:]))

    def register():
        Image.register_open("HEIF", inside, lambda start: start[4:12] == b"ftypheic")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    decode._plugins.cache_clear()
    try:
        assert look("pictures").size.train == 16
    finally:
        decode._plugins.cache_clear()


def test_a_class_that_cannot_be_read_says_why(capsys):
    """HEIC without its package, beside a class that is read."""
    pictures([12], side=8)
    heic("pictures/cat")
    assert ims3("new", "mine", "pictures") == 2
    assert (
        "12 of 24 files are no pictures, all of class cat: cat/0.heic (a HEIC picture, which Pillow reads with"
        in capsys.readouterr().err
    )
