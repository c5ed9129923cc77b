"""The plan beside what happens: every stage of a toy run, with its calls, FLOPs and images counted as it runs."""

import contextlib
from pathlib import Path

import pytest
import torch
import yaml
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.autoencoders.vae import Encoder as VaeEncoder
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from ims3core.axes.diagnostics import coverage
from ims3core.base import files, measurements
from ims3core.classifiers.encoder import Encoder
from ims3core.diffusion.dit import DiT
from ims3core.params import load
from ims3core.pipeline import harness, profiles
from ims3core.pipeline.graph import Graph
from ims3core.planning import costs as plan
from ims3core.students import train
from ims3core.students.networks import FeatureNetwork
from tests.conftest import REPOSITORY, toy_parameters

NETWORKS = (DiT, VaeEncoder, Decoder, FeatureNetwork)
ROWS = {
    "adaptations": ["minimax"], "guides": ["statistics"], "pools": ["crops", "noise", "d3hr"],
    "methods": ["rded", "noise", "d3hr", "confident"], "refinements": ["sre2l", "cao2", "idc"],
}  # fmt: skip


def tree():
    """The toy digits with a row of every kind: crops, noise, a guide that asks the network, a teacher that is asked."""
    made, all_rows = toy_parameters(), profiles.read(REPOSITORY, "digits-all").tree
    for name in all_rows.keys() - made.keys():
        made[name] = all_rows[name]
    for table, rows in ROWS.items():
        made[table] |= {row: all_rows[table][row] for row in rows}
    made["teacher"] = all_rows["teacher"] | {"steps": 5, "batch_size": 48}
    made["pools"]["crops"]["set"] = {"per_class": 40}
    made["statistics"] |= {"steps": 4, "sets": 4}
    made["from_statistics"] |= {"steps": 4}
    made["diagnostics"] = {"mine": {"type": "instability", "adaptation": "im"}}
    made["instability"] = {"images": 2, "steps": 2, "level": 0.5}
    made["batchnorm_inversion"]["iterations"] = made["conditional_likelihood"]["iterations"] = 2
    made["gradient_matching"] |= {"outer": 1, "inner": 1, "pretrain_steps": 1, "train_steps": 1}
    made["gradient_matching"]["options"] = {"width": 96}
    made["finetune"]["grad_norm_every"], made["gradient_matching"]["real_batch"] = 4, 8
    made["s3_image"]["frequencies"] = 256
    made["eval"] |= {"methods": ["random", "sre2l"], "protocols": ["steps", "steps_soft"]}
    made["report"]["tsne_method"] = "sre2l"
    made["compute"]["threads"], made["candidates"]["per_class"] = 1, 8
    return made


class Counted:
    """What one stage does: steps of optimisers, calls of networks, FLOPs, distances."""

    def __init__(self, monkeypatch):
        self.reset()
        monkeypatch.setattr(Encoder, "raw_features", self.counting("calls", Encoder.raw_features))
        counted = {"__call__": self.counting("steps", train.Optimiser.__call__)}
        monkeypatch.setattr(train, "Optimiser", type("CountedOptimiser", (train.Optimiser,), counted))
        distances = coverage._distances

        def measured(one, other):
            self.distance += 2.0 * len(one) * len(other) * one.shape[1]
            return distances(one, other)

        monkeypatch.setattr(coverage, "_distances", measured)

    def reset(self):
        self.steps, self.calls, self.distance, self.flops = 0, 0, 0.0, 0.0

    def counting(self, name, function):
        def call(*args, **kwargs):
            setattr(self, name, getattr(self, name) + 1)
            return function(*args, **kwargs)

        return call

    def _called(self, module, inputs, output):
        self.calls += isinstance(module, NETWORKS)

    def _stepped(self, *facts):
        self.steps += 1

    @contextlib.contextmanager
    def open(self):
        """Counts while open."""
        self.reset()
        hooks = [
            torch.nn.modules.module.register_module_forward_hook(self._called),
            register_optimizer_step_post_hook(self._stepped),
        ]
        try:
            with FlopCounterMode(display=False) as counter:
                yield
        finally:
            for hook in hooks:
                hook.remove()
        self.flops = float(counter.get_total_flops())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every stage of the toy graph with its planned and its counted costs, by address."""
    root, monkeypatch = tmp_path_factory.mktemp("counted"), pytest.MonkeyPatch()
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(root / "cache"))
    counted, found = Counted(monkeypatch), {}
    try:
        with contextlib.chdir(root):
            Path("params.yaml").write_text(yaml.safe_dump(tree(), sort_keys=False))
            params = load(Path("params.yaml"))
            for node in Graph(params.tree).nodes:
                with counted.open():
                    harness.run(node.stage, params, Path(), node.arguments)
                found[node.address] = dict(vars(counted))
            rows, size = plan.costs(params, Path())
    finally:
        monkeypatch.undo()
    assert size.counted
    return {row.stage: (row, found[row.stage]) for row in rows}, root


TRAINED = ("generator", "encoder", "teacher", "finetune", "students", "full_data")
SLACK = {
    "finetune": 0.3,
    "diagnose": 0.1,
    "refine": 0.1,
    "select": 0.1,
}  # of FLOPs; 1 % elsewhere. Norms of gradients are logged term by term
TOY = 1e7  # FLOPs of what is not worth planning: searches over a few features


def test_every_stage_takes_the_steps_and_calls_that_were_planned(run):
    """Steps of the optimiser where something is trained, calls of a network where not; refinements count none."""
    planned = {name: row.calls for name, (row, _) in run[0].items() if row.calls is not None}
    done = {
        name: found["steps" if name.split("@")[0] in TRAINED else "calls"] for name, (_, found) in run[0].items()
    }  # fmt: skip
    assert planned == {name: done[name] for name in planned}
    assert {name.split("@")[0] for name in done.keys() - planned.keys()} == {"refine", "diagnose"}


def test_every_stage_computes_the_flops_that_were_planned(run):
    """Crops and noise, for example, are charged no decoder, and soft labels are charged the teacher."""
    wrong = {}
    for name, (row, found) in run[0].items():
        slack = SLACK.get(name.split("@")[0], 0.01) * row.flops if row.flops else TOY
        if abs(row.flops - found["flops"]) > slack:
            wrong[name] = row.flops, found["flops"]
    assert not wrong
    assert run[0]["refine@ims3_plus"][0].flops > 1e9 and run[0]["teacher"][0].flops > 1e9


def test_coverage_measures_the_distances_that_were_planned(run):
    """Of every pool and set to the real images, and of the real images to each other."""
    row, found = run[0]["coverage"]
    assert row.work["distance"] == pytest.approx(found["distance"], rel=1e-3)


def test_every_stage_makes_the_images_that_were_planned(run):
    """Pools and features by their manifests, sets by their files."""
    rows, root = run
    planned = {name: row.images for name, (row, _) in rows.items()}
    for name in planned:
        stage, _, place = name.partition("@")
        if stage in ("candidates", "features"):
            assert planned[name] == files.read_json(root / f"data/{stage}/{place}/manifest.json")["facts"]["images"]
        if stage in ("select", "refine"):
            assert planned[name] == len(list((root / f"data/distilled/{place}").rglob("*.png")))
