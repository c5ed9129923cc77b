"""The plan: FLOPs against closed forms, sizes that are known or estimated, a table on one screen."""

from pathlib import Path

import pytest
import torch
import yaml

from ims3core import cli
from ims3core.diffusion.dit import DiT
from ims3core.errors import ParameterError
from ims3core.params import parse
from ims3core.pipeline import harness, profiles
from ims3core.planning import cache, image_costs, rates, sizes, table
from ims3core.planning import costs as plan

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    monkeypatch.setattr(image_costs, "_COUNTED", {})
    image_costs.student_flops.cache_clear()


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
        found = image_costs.flops(DiT(image_costs.DIT_XL), torch.zeros(1, 4, 32, 32), label, label)
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
    """One row per stage of the graph, each with finite numbers."""
    rows, _ = plan.costs(profiles.read(REPOSITORY, name), tmp_path)
    assert [row.stage.split("@")[0] for row in rows][:4] == ["prepare", "generator", "encoder", "latents"]
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


def test_a_student_is_counted_with_its_options(toy, tmp_path):
    """A ViT for 224 pixels takes images of 8 only as its row of `students` says."""
    options = {"img_size": 8, "patch_size": 2}
    params = toy(students={"vit": {"network": "timm:vit_tiny_patch16_224", "options": options}}, eval__students=["vit"])
    rows, _ = plan.costs(params, tmp_path)
    (row,) = [row for row in rows if row.stage == "students (vit)"]
    assert row.flops > 1e9


def test_the_command_prints_a_table(toy, capsys, monkeypatch):
    """For a given machine without measuring; stages that do not fit its memory are marked."""
    toy()
    monkeypatch.setattr(table, "machine_rates", None)
    cli.app(["plan", "--tflops", "400", "--memory", "0.5"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "finetune@im" in out
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
    assert set(found) == {"dit_train", "dit_sample", "student_train", "student_eval", "vae", "decode"}
    assert min(found.values()) > 0
    row = plan.Cost("x", "vae", flops=10 * found["vae"], processes=2)
    assert rates.seconds(row, found) == pytest.approx(10 + 2 * rates.START_UP)


def test_networks_are_counted_once(tmp_path, monkeypatch):
    """The next process builds none, and says the same; other sizes or other code are counted."""
    params = profile("digits")
    first = plan.costs(params, tmp_path)
    counted = []

    def count(params, config, classes):
        counted.append(config)
        return stored

    stored, config = next(iter(image_costs._COUNTED.values())), image_costs.generator_config(params, 10)
    monkeypatch.setattr(image_costs, "_count", count)
    monkeypatch.setattr(image_costs, "student_network", lambda *facts: pytest.fail("built"))
    for _ in range(2):
        image_costs._COUNTED.clear()
        image_costs.student_flops.cache_clear()
        assert plan.costs(params, tmp_path) == first and not counted
    image_costs.image_costs(params, image_costs.replace(config, depth=7), 10)
    assert len(counted) == 1
    image_costs._COUNTED.clear()
    monkeypatch.setattr(image_costs, "_code", lambda: "other")
    image_costs.image_costs(params, config, 10)
    assert len(counted) == 2


def test_a_machine_is_measured_once(toy, tmp_path, monkeypatch):
    """Rates come back from the cache for the same networks; a damaged or unwritable cache is measured over."""
    params = toy()
    size, asked = sizes.dataset_size(params, Path()), []

    def calibrate(params, root, size):
        asked.append(params.compute.threads)
        return dict.fromkeys((*rates.WORK, "decode"), 1e9 + len(asked))

    monkeypatch.setattr(rates, "calibrate", calibrate)
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
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache/rates.json"))
    rates.machine_rates(params, Path(), size)
    assert len(asked) == 7
