"""The graph, run by DVC itself on the toy profile in a copy of this project: `make test-slow`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from ims3core.base import files

REPOSITORY = Path(__file__).resolve().parents[2]
POOLED = {"candidates@fresh", "features@fresh", "select@fresh"}
pytestmark = pytest.mark.slow


def dvc(project, *arguments):
    """Runs DVC in ``project`` and returns the stages it ran."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=project, capture_output=True, text=True, check=False,
        env=environment(project),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return re.findall(r"Running stage '([^']+)'", result.stdout)


def environment(project):
    return os.environ | {
        "PYTHONPATH": str(project), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def change(project, *path, value):
    tree = yaml.safe_load((project / "params.yaml").read_text())
    section = tree
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def tracked_bytes(project):
    return {
        p.relative_to(project): p.read_bytes()
        for folder in ("data", "metrics", "reports")
        for p in sorted((project / folder).rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_text):
    """A git repository with this code, the toy profile and no results, fully reproduced once."""
    root = tmp_path_factory.mktemp("project")
    for name in ("ims3core", "stages", "profiles", "metrics/studies"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "studies.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "params.yaml").write_text(toy_text)
    # Enough pieces of work that a kill can fall between two of them.
    change(root, "finetune", "epochs", value=1.0)
    change(root, "dpm_solver", "steps", value=20)
    change(root, "protocols", "steps", "steps", value=60)
    change(root, "compute", "threads", value=1)  # else all student runs of a cell could end at the same time
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "-A"],
                    ["git", *identity, "commit", "-qm", "start"]):  # fmt: skip
        subprocess.run(command, cwd=root, check=True, env=environment(root))
    dvc(root, "repro")
    return root


def write_studies(root, study):
    """Makes ``study`` the only one of a project."""
    (root / "studies.yaml").write_text(yaml.safe_dump({"mine": study}))


def test_a_second_repro_runs_nothing(project):
    """Everything is up to date."""
    dvc(project, "repro")  # after what another test has changed
    assert dvc(project, "repro") == []


@pytest.mark.parametrize(
    ("path", "value", "first", "untouched"),
    [
        (("s3", "alpha"), 0.5, {"select@s3", "select@ims3"}, r"generator|encoder|finetune|candidates|features|centroids"),
        (("im", "lambda_im"), 0.01, {"finetune@im"}, r"generator|encoder|latents|finetune@none|candidates@(dit|real)|select@(dit|s3|random)$"),
        (("encoder", "lr"), 0.01, {"encoder"}, r"generator|latents|finetune|candidates"),
        (("eval", "ipc"), [1, 2, 3], {"select@dit"}, r"prepare|generator|encoder|finetune|guides|features|centroids|students@.*-[12]-"),
        (("eval", "seeds"), 3, {"students@dit-1-convnet-steps"}, r"prepare|generator|encoder|finetune|guides|candidates|features|centroids|select"),
    ],
    ids=["alpha", "lambda", "encoder", "ipc", "seeds"],
)  # fmt: skip
def test_one_knob_rebuilds_only_what_it_affects(project, path, value, first, untouched):
    """The stages that run include the first affected ones and none of the unaffected."""
    before = (project / "params.yaml").read_text()
    dvc(project, "repro")
    try:
        if path[-1] == "ipc":
            change(project, "report", "grid_images", value=2)
        change(project, *path, value=value)
        ran = dvc(project, "repro")
    finally:
        (project / "params.yaml").write_text(before)

    assert first <= set(ran)
    assert not [name for name in ran if re.match(untouched, name)]


def outdated(project):
    """The stages that `dvc status` calls outdated."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=project, capture_output=True, text=True, check=True,
        env=environment(project),
    )  # fmt: skip
    return set(json.loads(result.stdout))


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("ims3core/axes/selections/s3.py", {"select@s3", "select@ims3", "report"}),
        ("ims3core/axes/selections/herding.py", {"select@herding", "report"}),
        ("ims3core/axes/adaptations/im.py", {"finetune@im", "report"}),
        ("ims3core/axes/samplers/dpm_solver.py", {"candidates@dit", "candidates@im", "report"}),
        ("ims3core/axes/sources/generated.py", {"candidates@dit", "candidates@im", "report"}),
        ("ims3core/axes/guides/none.py", {"guides@none", "report"}),
        ("ims3core/errors.py", set()),
        ("ims3core/params/rows.py", set()),
        ("ims3core/pipeline/progress.py", set()),
        ("ims3core/pipeline/timings.py", set()),
        ("ims3core/pipeline/workspace.py", set()),
        ("ims3core/planning/table.py", set()),
    ],
    ids=lambda value: value.split("/", 1)[1] if isinstance(value, str) else "",
)
def test_a_comment_outdates_only_what_uses_the_file(project, path, stages):
    """The report's table of costs asks every entry; messages and bookkeeping can be reworded for nothing."""
    dvc(project, "repro")
    source = (project / path).read_text()
    (project / path).write_text(source + "# a comment\n")
    try:
        assert outdated(project) == stages
    finally:
        (project / path).write_text(source)
    assert outdated(project) == set()


def parts(project):
    """Every part in scratch by what it is: (inode, time of writing)."""
    return {
        path.relative_to(project): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted((project / "scratch").rglob("*"))
        if path.is_file() and path.name not in ("lock", "holder", "published", "ledger.json", "timings.jsonl")
    }


@pytest.mark.parametrize("per_class", [6, 7], ids=["same pool", "larger pool"])
def test_a_larger_grid_computes_only_what_is_new(project, per_class):
    """More IPCs, draws and images per class: every image, set and student run that existed is the very same file.

    But for the sets of a row that may choose any candidate of a generated pool, where a larger pool is another choice.
    """
    before = (project / "params.yaml").read_text()
    choosers = ("select-s3_image", "refine-ims3_plus") if per_class == 7 else ()
    change(project, "eval", "methods", value=["random", "dit", "s3", "ims3"])
    shutil.rmtree(project / "scratch")
    dvc(project, "repro", "--force", "--no-run-cache")
    images = {path: files.read_tensors(project / path) for path in parts(project) if path.match("candidates-*/*/*")}
    had = parts(project)
    covered = {path for path in had if path.match("coverage/*/pool-*") or path.match("coverage/*/real-*")}
    try:
        change(project, "eval", "ipc", value=[1, 2, 3])
        change(project, "eval", "draws", value=3)
        change(project, "candidates", "per_class", value=per_class)
        ran = dvc(project, "repro", "--no-run-cache")
        has = parts(project)
        assert not {"prepare", "generator", "encoder", "latents", "finetune@im", "guides@none"} & set(ran)
        # A last shard that was not full is written again, with new images after the old ones; so is what a pool covers,
        # and what as many real images do.
        kept = {path for path in had if not path.match("candidates-*/*/*") and not path.match("features-*/*/*")}
        kept -= covered
        kept = {path for path in kept if path.parts[1] not in choosers}
        assert {path: has.get(path) for path in kept} == {path: had[path] for path in kept}
        assert len(has) > len(had)
        grown = [files.read_tensors(project / path) for path in has if path.match("candidates-dit/*/*")]
        for path, shard in images.items():
            if path.match("candidates-dit/*/*"):
                same = next(g for g in grown if torch.equal(g["seed"][: len(shard["seed"])], shard["seed"]))
                assert torch.equal(same["images"][: len(shard["images"])], shard["images"])
    finally:
        (project / "params.yaml").write_text(before)


SELECTION = '''"""The last candidates."""

from ims3core.axes.selections import Selection, ungrouped


class Last(Selection):
    """As many as are asked for."""

    def select(self, candidates, *, ipc, seed, draw):
        import torch

        return ungrouped([torch.arange(len(features) - ipc, len(features)) for features in candidates.features])
'''
SAMPLER = '''"""The start itself."""

from ims3core.axes.samplers import RespacedSampler


class Start(RespacedSampler):
    """No step is taken."""

    accepts = ("nothing", "targets")

    def sample(self, denoiser, labels, noise, guide_latents):
        return noise() if guide_latents is None else guide_latents
'''
GUIDE = '''"""The mean latent."""

from ims3core.axes.guides import Guide


class Mean(Guide):
    """The same for all images of a class."""

    provides = "targets"

    def prepare(self, latents, denoiser, label):
        return {"mean": latents.mean(0)}

    def start(self, prepared, ipc, generator):
        return prepared["mean"].expand(ipc, -1, -1, -1)
'''
ADAPTATION = '''"""Half the diffusion loss."""

from ims3core.axes.adaptations import Adaptation


class Half(Adaptation):
    """The variational term is left out."""

    def objective(self, *, variational):
        from ims3core.diffusion.losses import denoising_terms

        return lambda *step: {"half": denoising_terms(*step, variational=variational)["diffusion"] / 2}

    def passes(self):
        return 2.0
'''
SOURCE = '''"""Grey images."""

from ims3core.axes.sources import Source


class Grey(Source):
    """Darker or brighter by class."""

    noise_stream = "grey"

    def build(self, inputs, spec, machine):
        import torch

        from ims3core.data.pools import CandidateBatch

        shape = inputs.train.images.shape[1:]
        grey = lambda key: torch.full(shape, 10 * key.class_index, dtype=torch.uint8)
        return lambda keys: CandidateBatch(torch.stack(list(map(grey, keys))))
'''
REFINEMENT = '''"""The negative."""

from ims3core.axes.refinements import Refinement


class Negative(Refinement):
    """Black is white."""

    def passes(self, sets, classes):
        return {}

    def refine(self, start):
        return 255 - start.images
'''
DIAGNOSTIC = '''"""The number of weights."""

from ims3core.axes.diagnostics import GeneratorDiagnostic


class Weights(GeneratorDiagnostic):
    """Of the adapted generator."""

    def measure(self, network, schedule, latents, label, generator):
        return {"weights": [sum(weight.numel() for weight in network.parameters())]}
'''
POOL = {"adaptation": "none", "guide": "none"}
METHOD = {"centroids": "real", "type": "first", "pool": "fresh"}


@pytest.mark.parametrize(
    ("axis", "text", "rows", "stages"),
    [
        ("selections", SELECTION, {"methods": METHOD | {"pool": "dit", "type": "new"}}, {"select@fresh"}),
        ("samplers", SAMPLER, {"pools": POOL | {"source": "generated", "sampler": "new"}, "methods": METHOD}, POOLED),
        (
            "guides", GUIDE,
            {"guides": {"type": "new", "adaptation": "none"}, "methods": METHOD,
             "pools": POOL | {"source": "generated", "sampler": "steered", "guide": "fresh"}},
            POOLED | {"guides@fresh"},
        ),
        (
            "adaptations", ADAPTATION,
            {"adaptations": {"type": "new"}, "methods": METHOD,
             "pools": POOL | {"source": "generated", "sampler": "dpm_solver", "adaptation": "fresh"}},
            POOLED | {"finetune@fresh"},
        ),
        ("sources", SOURCE, {"pools": POOL | {"source": "new", "sampler": "none"}, "methods": METHOD | {"type": "random"}}, POOLED),
        ("refinements", REFINEMENT, {"refinements": {"start": "dit", "type": "new"}}, {"refine@fresh"}),
        ("diagnostics", DIAGNOSTIC, {"diagnostics": {"type": "new", "adaptation": "im"}}, {"diagnose@fresh"}),
    ],
    ids=["selection", "sampler", "guide", "adaptation", "source", "refinement", "diagnostic"],
)  # fmt: skip
def test_a_new_module_runs_its_row_and_nothing_else(project, axis, text, rows, stages):
    """One class in one file and a few lines of params.yaml: only the row's own stages and the report run; a method is scored.

    A selection takes 15 lines or fewer.
    """
    dvc(project, "repro")
    before = (project / "params.yaml").read_text()
    module, steered = project / f"ims3core/axes/{axis}/new.py", project / "ims3core/axes/samplers/steered.py"
    walk = {"steps": 2, "guidance": 1.5, "guided_channels": 1}
    assert len(text.splitlines()) <= (15 if axis == "selections" else 20)
    try:
        module.write_text(text)
        if axis == "guides":  # no sampler here takes targets yet
            steered.write_text(SAMPLER)
            change(project, "steered", value=walk)
        change(project, "new", value=walk if axis == "samplers" else {})
        for table, row in rows.items():
            change(project, table, value=yaml.safe_load(before)[table] | {"fresh": row})
        expected = stages | {"report"}
        if axis != "diagnostics":
            change(project, "eval", "methods", value=[*yaml.safe_load(before)["eval"]["methods"], "fresh"])
            expected |= {f"students@fresh-{ipc}-convnet-steps" for ipc in (1, 2)} | {"coverage"}
        assert set(dvc(project, "repro")) == expected

        if axis != "diagnostics":
            assert "fresh,2,convnet,steps,1,1," in (project / "metrics/accuracy.csv").read_text()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "ims3core", "stages", "dvc.yaml"], cwd=project, capture_output=True, text=True,
            check=True,
        ).stdout.split()  # fmt: skip
        assert [name for name in changed if "steered" not in name][:2] == ["??", f"ims3core/axes/{axis}/new.py"]
    finally:
        module.unlink(missing_ok=True)
        steered.unlink(missing_ok=True)
        (project / "params.yaml").write_text(before)


def test_a_forced_repro_changes_no_byte(project):
    """All outputs are equal after everything ran again, from nothing that earlier runs left in scratch."""
    dvc(project, "repro")
    before = tracked_bytes(project)
    shutil.rmtree(project / "scratch")
    dvc(project, "repro", "--force")

    after = tracked_bytes(project)
    assert {k for k in before if before[k] != after.get(k)} == set()
    assert before.keys() == after.keys()


@pytest.mark.parametrize("victim", ["stage", "dvc"])
@pytest.mark.parametrize(
    ("stage", "piece", "output"),
    [
        ("generator", "*-begun/checkpoint.safetensors", "data/generator"),
        ("finetune@im", "*-begun/checkpoint.safetensors", "data/adapted/im"),
        ("candidates@dit", "ipc*.safetensors", "data/candidates/dit"),
        ("students@dit-2-convnet-steps", "run-*.json", "metrics/cells/dit-2-convnet-steps.json"),
    ],
    ids=["generator", "finetune", "candidates", "students"],
)
def test_a_kill_is_survived(project, stage, piece, output, victim):
    """kill -9 of the stage, or of dvc alone, with a part of the work done: the next run goes on and ends with the same bytes."""
    dvc(project, "repro")
    place, folder = project / output, project / "scratch" / stage.replace("@", "-")
    outputs = sorted(place.rglob("*")) if place.is_dir() else [place]
    expected = {path: path.read_bytes() for path in outputs if path.is_file()}
    shutil.rmtree(folder)  # else the units of the last run would serve again, and nothing be made
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage], cwd=project,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(project),
    )  # fmt: skip
    deadline = time.time() + 120
    while not list(folder.glob(f"*/{piece}")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.002)
    if victim == "stage":
        os.kill(int((folder / "holder").read_text()), signal.SIGKILL)  # fails if it has ended: then nothing was shown
    else:
        assert process.poll() is None
        process.kill()
    process.wait()
    if victim == "stage":
        assert list(folder.glob(f"*/{piece}"))  # part of the work is there to go on from
    # Forced: a plain repro would bring the earlier run's outputs back from DVC's run cache and resume nothing.
    ran = dvc(project, "repro", "--force", "--single-item", stage)

    assert stage in ran
    assert {path: path.read_bytes() for path in expected} == expected


def test_a_study_leaves_the_checkout_alone_and_is_not_run_twice(project):
    """Real experiments: what varies is in the table, what is known is not run, one more value runs alone."""
    dvc(project, "repro")
    before = (project / "params.yaml").read_text()
    study = {"claim": "c", "rows": ["s3", "dit"], "ipc": [1], "draws": 2, "seeds": 1, "split": "validation",
             "vary": {"s3.alpha": [0.1, 0.9]}, "measures": ["accuracy", "coverage", "cost", "diagnostics"],
             "fixed": {"diagnostics.mine": {"type": "instability", "adaptation": "none"},
                       "instability": {"images": 1, "steps": 2, "level": 0.5}}}  # fmt: skip

    def ims3():
        began = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-m", "ims3core", "study", "mine"], cwd=project, capture_output=True, text=True, check=False,
            env=environment(project),
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        return int(re.search(r"(\d+) experiments ran", result.stdout)[1]), time.monotonic() - began

    try:
        write_studies(project, study)
        mine, lock = (project / "params.yaml").read_bytes(), (project / "dvc.lock").read_bytes()
        table = project / "metrics/studies/mine.csv"
        assert ims3()[0] == 2
        assert not (project / "scratch/runs/studies/scratch/generator").exists()  # it came from DVC's cache
        lines = table.read_text().splitlines()
        assert {line.split(",")[2] for line in lines[1:]} == {"0.1", "0.9"}
        assert {"accuracy", "recall", "sampling_calls", "log_coefficient"} <= {line.split(",")[-2] for line in lines}
        assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        ran, took = ims3()
        assert ran == 0 and took < 10 and table.read_text().splitlines() == lines
        write_studies(project, study | {"vary": {"s3.alpha": [0.1, 0.5, 0.9]}})
        assert ims3()[0] == 1
        write_studies(project, study)
        assert ((project / "params.yaml").read_bytes(), (project / "dvc.lock").read_bytes()) == (mine, lock)
        names = subprocess.run(
            [sys.executable, "-m", "dvc", "exp", "list"], cwd=project / "scratch/runs/studies", capture_output=True,
            text=True, check=True, env=environment(project),
        ).stdout  # fmt: skip
        assert names.count("mine-") == 3
    finally:
        (project / "params.yaml").write_text(before)
        shutil.rmtree(project / "metrics/studies")
        shutil.copytree(REPOSITORY / "metrics/studies", project / "metrics/studies")
