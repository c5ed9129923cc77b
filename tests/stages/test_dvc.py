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
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "params.yaml").write_text(toy_text)
    # Enough pieces of work that a kill can fall between two of them.
    change(root, "finetune", "epochs", value=1.0)
    change(root, "candidates", "steps", value=20)
    change(root, "protocols", "steps", "steps", value=60)
    change(root, "compute", "threads", value=1)  # else all student runs of a cell could end at the same time
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "-A"],
                    ["git", *identity, "commit", "-qm", "start"]):  # fmt: skip
        subprocess.run(command, cwd=root, check=True, env=environment(root))
    dvc(root, "repro")
    return root


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
        (("eval", "ipc"), [1, 2, 3], {"select@dit"}, r"prepare|generator|encoder|finetune|guides|candidates|features|centroids|students@.*-[12]-"),
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
        ("ims3core/selections/s3.py", {"select@s3", "select@ims3"}),
        ("ims3core/selections/herding.py", {"select@herding"}),
        ("ims3core/adaptations/im.py", {"finetune@im"}),
        ("ims3core/samplers/dpm_solver.py", {"candidates@dit", "candidates@im"}),
        ("ims3core/sources/generated.py", {"candidates@dit", "candidates@im"}),
        ("ims3core/guides/none.py", {"guides@none"}),
        ("ims3core/shell/errors.py", set()),
        ("ims3core/shell/progress.py", set()),
        ("ims3core/shell/timings.py", set()),
        ("ims3core/shell/scratch.py", set()),
    ],
    ids=lambda value: value.split("/", 1)[1] if isinstance(value, str) else "",
)
def test_a_comment_outdates_only_what_uses_the_file(project, path, stages):
    """And what the shell says can be reworded for nothing."""
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
        if path.is_file() and path.name not in ("lock", "published", "ledger.json", "timings.jsonl")
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
    measured = {path: files.read_json(project / path) for path in had if path.match("coverage/*/*.json")}
    covered = {path for path, found in measured.items() if found["boundary"] is None}  # pools, not sets
    try:
        change(project, "eval", "ipc", value=[1, 2, 3])
        change(project, "eval", "draws", value=3)
        change(project, "candidates", "per_class", value=per_class)
        ran = dvc(project, "repro", "--no-run-cache")
        has = parts(project)
        assert not {"prepare", "generator", "encoder", "latents", "finetune@im", "guides@none"} & set(ran)
        # A last shard that was not full is written again, with new images after the old ones; so is what a pool covers.
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

from ims3core.params.schema import Empty as Section
from ims3core.selections import ungrouped

DETERMINISTIC, SOURCES = False, None


def need(ipc):
    return None


def select(candidates, *, ipc, seed, draw):
    import torch

    return ungrouped([torch.arange(len(own) - ipc, len(own)) for own in candidates.features])
'''
SAMPLER = '''"""The start itself."""

from ims3core.samplers import Steps as Section
from ims3core.samplers import network_calls as calls

TAKES = ("nothing", "targets")


def sample(denoiser, label, streams, given, **section):
    return streams() if given is None else given
'''
GUIDE = '''"""The mean latent."""

from ims3core.params.schema import Empty as Section

GIVES, PER_IPC, NETWORK = "targets", False, False


def prepare(latents, denoiser, label):
    return {"mean": latents.mean(0)}


def start(prepared, ipc, generator):
    return prepared["mean"].expand(ipc, -1, -1, -1)


def calls(images):
    return 0
'''
ADAPTATION = '''"""Half the diffusion loss."""

from ims3core.params.schema import Empty as Section


def objective(*, variational):
    from ims3core.diffusion.losses import denoising_terms

    return lambda *given: {"half": denoising_terms(*given, variational=variational)["diffusion"] / 2}


def passes():
    return 2.0
'''
SOURCE = '''"""Grey images."""

from ims3core.params.schema import Empty as Section

SAMPLED = False


def maker(inputs, wanted, machine):
    import torch

    from ims3core.data.pools import Made

    shape = inputs.train.images.shape[1:]
    return lambda spots: Made(torch.stack([torch.full(shape, 10 * s.class_index, dtype=torch.uint8) for s in spots]))


def calls(wanted):
    return 0
'''
REFINEMENT = '''"""The negative."""

from ims3core.params.schema import Empty as Section


READS = "data/real/train"


def passes(sets, classes):
    return {}


def refine(start):
    return 255 - start.chosen.images
'''
POOL = {"adaptation": "none", "guide": "none", "purpose": "new", "sized_by": "candidates.per_class"}
METHOD = {"centroids": "real", "selection": "first", "pool": "fresh", "reads": "data/real/classes.json"}


@pytest.mark.parametrize(
    ("axis", "text", "rows", "stages"),
    [
        ("selections", SELECTION, {"methods": METHOD | {"pool": "dit", "selection": "new"}}, {"select@fresh"}),
        ("samplers", SAMPLER, {"pools": POOL | {"source": "generated", "sampler": "new"}, "methods": METHOD}, POOLED),
        (
            "guides", GUIDE,
            {"guides": {"by": "new", "adaptation": "none"}, "methods": METHOD,
             "pools": POOL | {"source": "generated", "sampler": "steered", "guide": "fresh"}},
            POOLED | {"guides@fresh"},
        ),
        (
            "adaptations", ADAPTATION,
            {"adaptations": {"loss": "new"}, "methods": METHOD,
             "pools": POOL | {"source": "generated", "sampler": "dpm_solver", "adaptation": "fresh"}},
            POOLED | {"finetune@fresh"},
        ),
        ("sources", SOURCE, {"pools": POOL | {"source": "new", "sampler": "none"}, "methods": METHOD | {"selection": "random"}}, POOLED),
        ("refinements", REFINEMENT, {"refined": {"start": "dit", "by": "new", "reads": "data/real/train"}}, {"refine@fresh"}),
    ],
    ids=["selection", "sampler", "guide", "adaptation", "source", "refinement"],
)  # fmt: skip
def test_a_new_module_runs_its_row_and_nothing_else(project, axis, text, rows, stages):
    """One file and a few lines of params.yaml: only the row's own stages and the report run, and the row is scored."""
    dvc(project, "repro")
    before = (project / "params.yaml").read_text()
    module = project / "ims3core" / axis / "new.py"
    try:
        module.write_text(text)
        if axis == "guides":  # no sampler here takes targets yet
            (project / "ims3core/samplers/steered.py").write_text(SAMPLER)
            change(project, "steered", value={"steps": 2, "guidance": 1.5, "guided_channels": 1})
        change(project, "new", value={"steps": 2, "guidance": 1.5, "guided_channels": 1} if axis == "samplers" else {})
        for table, row in rows.items():
            change(project, table, "fresh", value=row)
        change(project, "eval", "methods", value=[*yaml.safe_load(before)["eval"]["methods"], "fresh"])
        ran = dvc(project, "repro")

        cells = {f"students@fresh-{ipc}-convnet-steps" for ipc in (1, 2)}
        assert set(ran) == stages | cells | {"coverage", "report"}
        assert "fresh,2,convnet,steps,1,1," in (project / "metrics/accuracy.csv").read_text()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "ims3core", "stages", "dvc.yaml"], cwd=project, capture_output=True, text=True,
            check=True,
        ).stdout.split()  # fmt: skip
        assert [name for name in changed if "steered" not in name][:2] == ["??", f"ims3core/{axis}/new.py"]
    finally:
        module.unlink(missing_ok=True)
        (project / "ims3core/samplers/steered.py").unlink(missing_ok=True)
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
    ("stage", "home", "piece", "output"),
    [
        ("generator", "generator", "checkpoint.safetensors", "data/generator"),
        ("finetune@im", "finetune-im", "checkpoint.safetensors", "data/adapted/im"),
        ("candidates@dit", "candidates-dit", "ipc*.safetensors", "data/candidates/dit"),
        (
            "students@dit-2-convnet-steps",
            "students-dit-2-convnet-steps",
            "run-*.json",
            "metrics/cells/dit-2-convnet-steps.json",
        ),
    ],
    ids=["generator", "finetune", "candidates", "students"],
)
def test_a_kill_is_survived(project, stage, home, piece, output, victim):
    """kill -9 of the stage, or of dvc alone, with a part of the work done: the next run goes on and ends with the same bytes."""
    dvc(project, "repro")
    place = project / output
    wanted = sorted(place.rglob("*")) if place.is_dir() else [place]
    expected = {path: path.read_bytes() for path in wanted if path.is_file()}
    shutil.rmtree(project / "scratch" / home)  # else the parts of the last run would serve again, and nothing be made
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage], cwd=project,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(project),
    )  # fmt: skip
    folder = project / "scratch" / home
    deadline = time.time() + 120
    while not list(folder.glob(f"*/{piece}")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.002)
    if victim == "stage":
        os.kill(int((folder / "lock").read_text()), signal.SIGKILL)  # fails if it has ended: then nothing was shown
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
             "vary": {"s3.alpha": [0.1, 0.9]}, "measures": ["accuracy", "coverage", "cost", "probes"],
             "fixed": {"probes.mine": {"by": "instability", "adaptation": "none"},
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
        change(project, "studies", value={"mine": study})
        mine, lock = (project / "params.yaml").read_bytes(), (project / "dvc.lock").read_bytes()
        table = project / "metrics/studies/mine.csv"
        assert ims3()[0] == 2
        assert not (project / "scratch/beside/studies/scratch/generator").exists()  # it came from DVC's cache
        lines = table.read_text().splitlines()
        assert {line.split(",")[2] for line in lines[1:]} == {"0.1", "0.9"}
        assert {"accuracy", "recall", "sampling_calls", "log_coefficient"} <= {line.split(",")[-2] for line in lines}
        assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        ran, took = ims3()
        assert ran == 0 and took < 10 and table.read_text().splitlines() == lines
        change(project, "studies", value={"mine": study | {"vary": {"s3.alpha": [0.1, 0.5, 0.9]}}})
        assert ims3()[0] == 1
        change(project, "studies", value={"mine": study})
        assert ((project / "params.yaml").read_bytes(), (project / "dvc.lock").read_bytes()) == (mine, lock)
        names = subprocess.run(
            [sys.executable, "-m", "dvc", "exp", "list"], cwd=project / "scratch/beside/studies", capture_output=True,
            text=True, check=True, env=environment(project),
        ).stdout  # fmt: skip
        assert names.count("mine-") == 3
    finally:
        (project / "params.yaml").write_text(before)
        shutil.rmtree(project / "metrics/studies")
        shutil.copytree(REPOSITORY / "metrics/studies", project / "metrics/studies")
