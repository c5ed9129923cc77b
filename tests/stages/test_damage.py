"""Every artefact of a finished grid, damaged in every way: the next stage names the file in one line, or nothing changes.

Files that a manifest lists are compared with its SHA-256, and so is the rest of a set's manifest. The others (cells,
tables, other manifests) are held by their schema: another digit in a number is a number, which DVC's own lock notices.
Names of studies, data sets and rows are free in the tables of studies.
"""

import contextlib
import random
import shutil
from pathlib import Path

import pytest
import yaml

from ims3core.errors import Ims3Error
from ims3core.params import load
from ims3core.pipeline import profiles
from ims3core.pipeline.harness import open_stage
from ims3core.pipeline.stage import artifact_digest
from ims3core.report import data as report_data
from ims3core.report import overview
from ims3core.report.artifacts import SelectionReport
from ims3core.studies import figures, results

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = ["random", "dit", "ims3", "cao2"]
CELL = ("students", "cao2", 1, "convnet", "steps_soft")
SET = "data/distilled/dit/ipc-1/draw-0"
KINDS = {  # an artefact, and the stage that reads it
    "data/real/manifest.json": ("centroids", "real"),
    "data/real/classes.json": ("centroids", "real"),
    "data/real/statistics.json": CELL,
    "data/real/train/manifest.json": ("features", "real"),
    "data/real/train/images.npy": ("features", "real"),
    "data/real/train/labels.safetensors": ("features", "real"),
    "data/real/validation/images.npy": ("coverage",),
    "data/real/test/manifest.json": CELL,
    "data/generator/manifest.json": ("candidates", "dit"),
    "data/generator/transformer/config.json": ("candidates", "dit"),
    "data/generator/transformer/diffusion_pytorch_model.safetensors": ("candidates", "dit"),
    "data/generator/vae/config.json": ("candidates", "dit"),
    "data/generator/vae/diffusion_pytorch_model.safetensors": ("candidates", "dit"),
    "data/generator/scheduler/scheduler_config.json": ("candidates", "dit"),
    "data/generator/curve.csv": "report",
    "data/encoder/manifest.json": ("features", "dit"),
    "data/encoder/config.json": ("features", "dit"),
    "data/encoder/weights.safetensors": ("features", "dit"),
    "data/teacher/manifest.json": ("coverage",),  # labels copies it, with facts that nothing reads
    "data/teacher/classes.json": ("labels", "steps_soft"),
    "data/teacher/weights.safetensors": ("labels", "steps_soft"),
    "data/latents/manifest.json": ("guides", "modes"),
    "data/latents/mean.npy": ("guides", "modes"),
    "data/latents/labels.safetensors": ("guides", "modes"),
    "data/adapted/im/manifest.json": ("candidates", "im"),
    "data/adapted/im/delta.safetensors": ("candidates", "im"),
    "data/adapted/im/curve.csv": "report",
    "data/guides/modes/manifest.json": ("candidates", "steered"),
    "data/guides/modes/class-0003.safetensors": ("candidates", "steered"),
    "data/candidates/dit/manifest.json": ("features", "dit"),
    "data/candidates/dit/shard-00000.safetensors": ("features", "dit"),
    "data/features/dit/manifest.json": ("select", "dit"),
    "data/features/dit/features.safetensors": ("select", "dit"),
    "data/centroids/real/manifest.json": ("select", "dit"),
    "data/centroids/real/centroids.safetensors": ("select", "dit"),
    f"{SET}/manifest.json": ("refine", "cao2"),
    f"{SET}/latents.safetensors": ("refine", "cao2"),
    f"{SET}/train/0/*.png": ("refine", "cao2"),
    "data/labels/steps_soft/manifest.json": CELL,
    "data/labels/steps_soft/config.json": CELL,
    "metrics/selection/ims3.json": "report",
    "metrics/cells/ims3-1-convnet-steps_soft.json": "report",
    "metrics/full_data/convnet-steps_soft.json": "report",
    "metrics/coverage.csv": "report",
    "metrics/studies/forms.csv": "studies",
    "metrics/studies/forms-plane.csv": "studies",
    "metrics/accuracy.csv": "profiles",
    "data/real/test/images.npy": CELL,
}
STUDY = {
    "claim": "c", "rows": ["ims3"], "ipc": [1], "draws": 1, "seeds": 1, "split": "test", "measures": ["accuracy"],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(build, toy_text):
    """A toy grid that has run to its end, without the scratch from which units would serve again."""
    tree, every = yaml.safe_load(toy_text), profiles.read(REPOSITORY, "digits-all").tree
    tree |= {name: every[name] for name in ("modes", "mode_guided")}
    tree["guides"]["modes"] = {"type": "modes", "adaptation": "none"}
    tree["pools"]["steered"] = tree["pools"]["dit"] | {"guide": "modes", "sampler": "mode_guided"}
    tree["conditional_likelihood"] = every["conditional_likelihood"] | {"iterations": 1, "batch_size": 10}
    tree["refinements"] = {"cao2": {"start": "dit", "type": "conditional_likelihood"}}
    tree["methods"] = {name: tree["methods"][name] for name in ROWS[:3]}
    tree["eval"] |= {"methods": ROWS, "ipc": [1], "draws": 1, "seeds": 1, "protocols": ["steps_soft"]}
    tree["report"]["tsne_method"] = "dit"
    pools = ("real", "dit", "im", "steered")
    root = build(
        yaml.safe_dump(tree, sort_keys=False), "prepare", "generator", "encoder", "teacher", "latents", "finetune none",
        "finetune im", "guides none", "guides modes", *(f"candidates {pool}" for pool in pools),
        *(f"features {pool}" for pool in pools), "centroids real", *(f"select {row}" for row in ROWS[:3]),
        "refine cao2", "labels steps_soft", *(f"students {row} 1 convnet steps_soft" for row in ROWS),
        "full_data convnet steps_soft", "coverage",
    )  # fmt: skip
    with contextlib.chdir(root):
        (root / "studies.yaml").write_text(yaml.safe_dump({"forms": STUDY}))
        (root / "metrics/studies").mkdir()
        columns = ",".join([*results.FACTS, *results.VALUES])
        lines = [f"digits,3885d85903cc9f3a,ims3,1,0,{seed},accuracy,8{seed}.25" for seed in range(4)]
        Path("metrics/studies/forms.csv").write_text("\n".join([columns, *lines, ""]))
        plane = [f"3885d85903cc9f3a,real,{n},{n}.5,-3.125" for n in range(4)]
        Path("metrics/studies/forms-plane.csv").write_text("\n".join([",".join(results.PLANE), *plane, ""]))
        report = report_data.read(load(Path("params.yaml")), root)
        report.runs.to_csv("metrics/accuracy.csv", index=False)
    shutil.rmtree(root / "scratch")
    return root


def text_of(value):
    """Everything that a value of frames, records and arrays holds, for comparison."""
    if isinstance(value, SelectionReport):
        return value.method  # what is shown of it is in a frame
    if hasattr(value, "to_csv"):
        return value.to_csv()
    if isinstance(value, dict | list | tuple):
        return [text_of(item) for item in (value.items() if isinstance(value, dict) else value)]
    if hasattr(value, "__dataclass_fields__") and not hasattr(value, "tolist"):
        return [text_of(getattr(value, name)) for name in value.__dataclass_fields__]
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def outcome(stage, reader):
    """What a stage makes of its inputs, or what the page is made of, for comparison."""
    root = Path.cwd()
    if reader == "report":
        return text_of(report_data.read(load(Path("params.yaml")), root))
    if reader == "studies":
        return text_of(figures.finished(load(Path("params.yaml")), root))
    if reader == "profiles":
        return text_of(overview.read(Path("metrics/accuracy.csv")))
    stage(*reader)
    outs = open_stage(reader[0], load(Path("params.yaml")), root, reader[1:]).node.outs
    return [artifact_digest(root / out) for out in outs]


def damages(content, path):
    """Bytes flipped, cut, emptied, zeroed, deleted (None) and appended; where flips fall is the path's own."""
    stream = random.Random(str(path))
    listed = path.suffix in (".safetensors", ".npy", ".png")
    places = [n for n, byte in enumerate(content) if "studies" not in path.parts or chr(byte) in "0123456789.,\n"]
    for _ in range(3):
        place, bit = stream.choice(places), 1 << stream.randrange(8) if listed else 0x40
        yield "flipped", bytes([*content[:place], content[place] ^ bit, *content[place + 1 :]])
    yield "cut", content[: len(content) // 2]
    yield "emptied", b""
    yield "zeroed", bytes(len(content))
    if "studies" not in path.parts:  # a study without a table is one that was not run
        yield "deleted", None
    yield "appended", content + b"junk\n"


@pytest.mark.parametrize("pattern", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_named_or_changes_nothing(finished, monkeypatch, stage, pattern):
    """One line, of the file, that is no longer than a message may be; what is there of the output stays."""
    monkeypatch.chdir(finished)
    path, reader = next(Path().glob(pattern)), KINDS[pattern]
    content, wanted, wrong = path.read_bytes(), None, []
    try:
        for kind, damaged in damages(content, path):
            path.unlink(missing_ok=True)
            if damaged is not None:
                path.write_bytes(damaged)
            try:
                found = outcome(stage, reader)
            except Ims3Error as error:
                line = str(error)
                if not (path.name in line or path.parent.name in line) or "\n" in line or len(line) > 600:
                    wrong.append((kind, line))
            except Exception as error:
                wrong.append((kind, repr(error)))
            else:
                path.write_bytes(content)
                wanted = wanted or outcome(stage, reader)
                if found != wanted:
                    wrong.append((kind, "another result", damaged))
            shutil.rmtree("scratch", ignore_errors=True)
    finally:
        path.write_bytes(content)
    assert wrong == []
