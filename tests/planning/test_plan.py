"""The plan: FLOPs against closed forms, sizes that are known or estimated, a table on one screen."""

import contextlib
import itertools
from pathlib import Path

import pytest
import torch
import yaml

from ims3core import cli
from ims3core.base import measurements
from ims3core.diffusion.dit import DiT
from ims3core.errors import ParameterError
from ims3core.params import parse
from ims3core.pipeline import harness, profiles
from ims3core.pipeline.graph import Graph
from ims3core.planning import costs as plan
from ims3core.planning import counting, facts, image_costs, memory, rates, sizes, table
from tests.conftest import REPOSITORY
from tests.diffusion.test_pretrained import CONFIG, original_state


@pytest.fixture(autouse=True)
def one_cache(tmp_path_factory, monkeypatch):
    """A cache folder of these tests' own, so that every network is counted once."""
    folder = tmp_path_factory.getbasetemp() / "plan-cache"
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(folder))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch, one_cache):
    """A cache folder of the test's own."""
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    monkeypatch.setattr(image_costs, "_STORED", {})


def profile(name, **changes):
    tree = profiles.read(REPOSITORY, name).tree
    for key, value in changes.items():
        section, last = key.split("__")
        tree[section][last] = value
    return parse(yaml.safe_dump(tree))


def test_flops_of_dit_xl_2_are_the_published_ones():
    """119 G multiply-adds per image at 256 px (DiT paper, Table 1: 118.6 Gflops)."""
    with torch.device("meta"):
        label = torch.zeros(1, dtype=torch.int64)
        found = counting.flops(DiT(sizes.DIT_XL), torch.zeros(1, 4, 32, 32), label, label)
    assert found / 2 == pytest.approx(118.6e9, rel=0.01)


def test_imagenet_1k_is_planned_from_the_profile(tmp_path):
    """Images per pool, network calls and bytes follow from the parameters alone."""
    params = profile("imagenet1k")
    rows, size = plan.costs(params, tmp_path)
    found = {row.stage: row for row in rows}
    assert (size.classes, size.test, size.counted) == (1000, 50_000, False)
    pool = found["candidates@im"]
    assert pool.images == 1000 * 250 * params.eval.draws
    assert pool.flops > pool.images * 50 * 2 * 2 * 118e9
    assert pool.disk == pool.images * (3 * 256 * 256 + 4 * 4 * 32 * 32)  # pixels, and float32 latents
    assert found["candidates@real"].flops == found["finetune@none"].flops == 0


def test_a_prepared_data_set_is_counted(toy, tmp_path):
    """Sizes come from data/real where it is there; another source's are not used."""
    params = toy()
    assert sizes.dataset_size(params, Path()).counted is False
    harness.run("prepare", params, Path())
    assert sizes.dataset_size(params, Path()) == sizes.DatasetSize(10, 1257, 180, 360, counted=True)
    own = params.model_copy(update={"data": params.data.model_copy(update={"source": "imagefolder"})})
    with pytest.raises(ParameterError, match="known after `ims3 prepare`"):
        sizes.dataset_size(own, Path())


@pytest.mark.parametrize("name", profiles.names(REPOSITORY))
def test_every_profile_can_be_planned(name, tmp_path):
    """One row per stage of dvc.yaml and row of params.yaml, in its order, each with finite numbers."""
    params = profiles.read(REPOSITORY, name)
    rows, _ = plan.costs(params, tmp_path)
    assert [row.stage for row in rows] == [node.address for node in Graph(params.tree).nodes]
    assert all(row.flops >= 0 and row.memory > 0 for row in rows)
    assert sum(row.flops for row in rows) > 1e12


def test_more_work_takes_longer_and_only_where_it_is():
    """Doubling the sampler's steps doubles the pools' FLOPs and nothing else."""
    one, two = (
        {r.stage: r.flops for r in plan.costs(profile("digits", dpm_solver__steps=n), Path("/nowhere"))[0]}
        for n in (20, 40)
    )
    assert two["candidates@dit"] == pytest.approx(2 * one["candidates@dit"], rel=0.05)
    assert {k: v for k, v in one.items() if "candidates" not in k} == {
        k: v for k, v in two.items() if "candidates" not in k
    }


def test_all_data_is_planned_for_its_own_epochs(tmp_path):
    """CIFAR-10 under DSA: ten epochs of 45,000 images in batches of 256, beside 1,000 of a set of 100."""
    params = profile("cifar10")
    found = {row.stage: row for row in plan.costs(params, tmp_path)[0]}
    cell, full = (next(row for name, row in found.items() if name.startswith(start)) for start in
                  ("students@random-10", "full_data"))  # fmt: skip
    assert full.calls == 10 * 176 * params.eval.seeds
    assert cell.calls == 1000 * params.eval.draws * params.eval.seeds


def test_long_trainings_on_small_images_are_planned_as_compiled(tmp_path):
    """At 32 px, where a run sees enough pixels, in more memory; not the digits', nor without a compiler."""

    def kinds(params, stages):
        rows = {row.stage: row for row in plan.costs(params, tmp_path)[0]}
        return [(next(iter(rows[stage].work)), rows[stage].memory) for stage in stages]

    large = [f"students@random-{ipc}-convnet-dsa" for ipc in (1, 10)] + ["encoder"]
    on, off = (kinds(profile("cifar10", compute__device="cpu", compute__compile=c), large) for c in (True, False))
    assert [kind for kind, _ in on] == ["compiled_students", "compiled_students", "compiled"]
    assert [kind for kind, _ in off] == ["students", "students", "train"]
    assert all(more > less for (_, more), (_, less) in zip(on, off, strict=True))
    small = kinds(profile("digits", compute__device="cpu"), ["students@random-10-convnet-steps", "encoder"])
    assert [kind for kind, _ in small] == ["students", "train"]


def test_a_student_is_counted_with_its_options(toy, tmp_path):
    """A ViT for 224 pixels takes images of 8 only as its row of `students` says."""
    options = {"img_size": 8, "patch_size": 2}
    params = toy(students={"vit": {"network": "timm:vit_tiny_patch16_224", "options": options}}, eval__students=["vit"])
    rows, _ = plan.costs(params, tmp_path)
    row = next(row for row in rows if row.stage == "students@ims3-1-vit-steps")
    assert row.flops > 1e9


def test_the_command_prints_a_table(toy, capsys, monkeypatch):
    """For a given machine without measuring; stages that do not fit its memory are marked."""
    toy()
    monkeypatch.setattr(table, "machine_rates", None)
    cli.app(["plan", "--tflops", "400", "--memory", "0.5"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "finetune@im" in out and "students (convnet, steps) x 16" in out
    assert "0.6 !" in out
    with pytest.raises(ParameterError, match="--tflops: found -1"):
        cli.app(["plan", "--tflops", "-1"], standalone_mode=False)
    cli.app(["plan", "--tflops", "400", "--memory", "4000"], standalone_mode=False)
    assert "needs more than" not in capsys.readouterr().out


def test_calibration_measures_every_kind(toy):
    """All rates are positive, and seconds follow from them."""
    params = toy()
    size = sizes.dataset_size(params, Path())
    found = rates.calibrate(params, Path(), size, budget=0.04)
    assert set(found) == {*rates.KINDS}
    assert min(found.values()) > 0
    row = facts.Cost("x", {"vae": 10 * found["vae"], "decode": 5 * found["decode"]})
    assert rates.seconds(row, found) == pytest.approx(10 + 5 + facts.START_UP)


def test_networks_are_counted_once(empty_cache, tmp_path, monkeypatch):
    """The next process builds none, and says the same; other sizes or other code are counted."""
    params, counted = profile("digits", compute__precision="fp32"), []  # in bf16 some are counted in fp32 too
    first = plan.costs(params, tmp_path)
    costs = next(iter(image_costs._STORED.values()))
    for module in (counting, image_costs):
        monkeypatch.setattr(module, "count", lambda *facts, **asked: counted.append(facts) or costs)
    for _ in range(2):
        image_costs._STORED.clear()
        assert plan.costs(params, tmp_path) == first and not counted
    config = sizes.generator_config(params, 10)
    image_costs.networks(params, sizes.replace(config, depth=7), 10)
    assert len(counted) == 2  # the DiT, and the decoder at its latents
    image_costs._STORED.clear()
    monkeypatch.setattr(image_costs, "code_digest", lambda: "other")
    image_costs.networks(params, config, 10)
    assert len(counted) == 2 + 4  # DiT, encoder and decoder of the VAE, feature encoder


def test_a_machine_is_measured_once(empty_cache, toy, tmp_path, monkeypatch):
    """Rates come back from the cache for the same networks; a damaged or unwritable cache is measured over."""
    params = toy()
    size, asked = sizes.dataset_size(params, Path()), []

    def calibrate(params, root, size):
        asked.append(params.compute.threads)
        return dict.fromkeys(rates.KINDS, 1e9 + len(asked))

    monkeypatch.setattr(rates, "calibrate", calibrate)
    monkeypatch.setattr(rates, "_share", lambda budget: 1.0)
    first = rates.machine_rates(params, Path(), size)
    assert rates.machine_rates(params, Path(), size) == first and len(asked) == 1
    wider = params.model_copy(update={"candidates": params.candidates.model_copy(update={"batch_size": 7})})
    assert rates.machine_rates(wider, Path(), size) != first and len(asked) == 2
    assert rates.machine_rates(params, Path(), size) == first
    assert rates.machine_rates(params, Path(), size, refresh=True) != first
    asked.pop()

    for damage in (b"{", b"[]", b'{"a": 1}', b"\xff"):
        (tmp_path / "cache/rates.json").write_bytes(damage)
        rates.machine_rates(params, Path(), size)
    assert len(asked) == 6
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache/rates.json"))
    rates.machine_rates(params, Path(), size)
    assert len(asked) == 7


def test_what_a_busy_machine_showed_is_not_kept(empty_cache, toy, monkeypatch, caplog):
    """It is used, with one line; the next plan measures again, and keeps what an idle machine shows."""
    params = toy()
    size, asked = sizes.dataset_size(params, Path()), []
    shares = iter([0.97, 0.62, 0.99, 0.98])
    monkeypatch.setattr(rates, "_share", lambda budget: next(shares))
    monkeypatch.setattr(
        rates, "calibrate", lambda *facts: asked.append(1) or dict.fromkeys(rates.KINDS, 1e9 * len(asked))
    )
    assert rates.machine_rates(params, Path(), size)["vae"] == 1e9
    (line,) = caplog.messages
    assert "busy machine, which gave this process 62 % of its processors' time: not kept" in line
    for _ in range(2):
        assert rates.machine_rates(params, Path(), size)["vae"] == 2e9
    assert len(asked) == 2 and len(caplog.messages) == 1


def test_the_share_of_the_processor_is_that_of_its_time(monkeypatch):
    """A second of a processor in two seconds on one thread is a half."""
    clock, used = itertools.count(), iter([5.0, 6.0])
    monkeypatch.setattr(rates.compute, "one_thread_each", lambda: contextlib.nullcontext(1))
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(clock) / 4)
    monkeypatch.setattr(rates.time, "process_time", lambda: next(used))
    assert rates._share(1.75) == pytest.approx(0.5)  # asked at 0.25, 0.5, ..., 1.75 after the start, and at 2


class TestMemory:
    """What networks hold while they run, by tensors that come and go."""

    @staticmethod
    def layers():
        return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))

    def counted(self, precision="fp32"):
        return counting.count(lambda: (self.layers(), lambda batch: (torch.zeros(batch, 8),)), precision)

    def test_by_hand(self):
        """Two layers of 32 and 4 values: without gradients the two inputs of the ReLU are alive at once, with them
        also what the backward pass needs."""
        found = self.counted()
        assert found.flops == 2 * (8 * 32 + 32 * 4) and found.weights == 8 * 32 + 32 + 32 * 4 + 4
        assert found.forward == 4 * (32 + 32)
        assert found.forward < found.through <= found.backward <= 4 * 3 * (8 + 32 + 32 + 4)

    def test_bf16_takes_less(self):
        """Under autocast activations are half as large."""
        assert self.counted("bf16").backward < self.counted().backward

    def test_the_decoder_of_stable_diffusion(self):
        """Measured at 256 px: 1.39 GiB an image with gradients in fp32, 0.79 under bf16."""
        from ims3core.diffusion.autoencoder import stable_diffusion_autoencoder

        def build():
            return stable_diffusion_autoencoder().decoder, lambda batch: (torch.zeros(batch, 4, 32, 32),)

        assert counting.count(build, "fp32").through / 2**30 == pytest.approx(1.39, rel=0.1)
        assert counting.count(build, "bf16").through / 2**30 == pytest.approx(0.79, rel=0.1)

    def test_grows_with_what_is_in_it(self):
        """Latents with their batch, students with theirs, a refinement with its images."""
        small, large = (
            {
                r.stage: r.memory
                for r in plan.costs(profile("digits", compute__threads=2, **changes), Path("/nowhere"))[0]
            }
            for changes in ({"latents__batch_size": 64}, {"latents__batch_size": 640, "data__side": 32})
        )
        for stage in ("latents", "students@ims3-10-convnet-steps", "refine@ims3_plus"):
            assert large[stage] > 1.2 * small[stage]
        assert small["labels@steps"] == memory.PYTHON < small["teacher"]


class TestGenerator:
    """A generator that exists is counted by its own size."""

    def planned(self, tmp_path, model, **changes):
        section = {"source": "pretrained", "model": str(model), "revision": None, "sha256": None, "heads": 4,
                   "vae": "mse", "time_features": "auto"} | changes  # fmt: skip
        tree = profiles.read(REPOSITORY, "digits").tree | {"generator": section}
        params = parse(yaml.safe_dump(tree))
        return sizes.generator_config(params, 10), params

    @pytest.mark.parametrize("ending", ["pt", "safetensors"])
    def test_a_checkpoint(self, tmp_path, ending, monkeypatch):
        """Names and shapes are read, whatever wraps them, and no weights."""
        from safetensors.torch import save_file

        path, state = tmp_path / f"tiny.{ending}", original_state()
        torch.save({"model": original_state(seed=1), "ema": state}, path) if ending == "pt" else save_file(state, path)
        widened = torch.Tensor.float

        def refusing(tensor):
            assert tensor.is_meta or tensor.dtype == torch.float64, "a weight was read"
            return widened(tensor)

        monkeypatch.setattr(torch.Tensor, "float", refusing)
        config, _ = self.planned(tmp_path, path)
        assert sizes.replace(config, norm_eps=CONFIG.norm_eps, time_features=CONFIG.time_features) == CONFIG

    def test_what_is_not_here_yet_counts_as_dit_xl(self, tmp_path):
        """A hub id, or a file that will be there; its latents have the size of the images."""
        config, _ = self.planned(tmp_path, "facebook/DiT-XL-2-256")
        assert config == sizes.replace(sizes.DIT_XL, side=1)

    def test_a_vae_in_a_folder(self, tmp_path):
        """By its configuration; else Stable Diffusion's, which has 83.7 million weights."""
        from ims3core.diffusion.autoencoder import build_autoencoder

        build_autoencoder(image_channels=1, side=8, latent_channels=4, widths=[8, 8], seed=0).save_config(tmp_path)
        with torch.device("meta"):
            own, theirs = (
                image_costs._vae(self.planned(tmp_path, "a/b", vae=vae)[1]) for vae in (str(tmp_path), "mse")
            )
        assert sum(p.numel() for p in own.parameters()) < 1e5
        assert sum(p.numel() for p in theirs.parameters()) / 1e6 == pytest.approx(83.7, abs=0.1)


def test_a_refinement_in_latents_holds_a_slice_however_many_images_a_class_has(tmp_path):
    """Two images of 256 px go through Stable Diffusion's decoder at once: 5.3 GiB were measured at IPC 10 in fp32."""
    held = []
    for ipc in (10, 100):
        params = profile("imagenette", eval__ipc=[ipc], compute__precision="fp32")
        held.append({row.stage: row.memory for row in plan.costs(params, tmp_path)[0]}["refine@ims3_plus"])
    assert 3 * 2**30 < held[0] < 8 * 2**30
    assert held[1] < held[0] + 2**30
