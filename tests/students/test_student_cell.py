"""The runs of a cell of the result table on the stage harness: side by side, kept, stopped together."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import pytest
import torch

from ims3core.base import compute, distributed, files
from ims3core.data import ImageSet
from ims3core.errors import NumericsError
from ims3core.pipeline import executors, harness
from ims3core.pipeline.stage import Unit
from ims3core.students import cell
from ims3core.students.settings import Augment, Dsa, Protocol
from stages.students import FullData, Students

AUGMENT = Augment(
    crop_scale=[0.7, 1.0], flip=0.0, rotate=0.0, translate=0.0, colour=0.0, lighting=0.0, patch_shuffle=1,
    randaugment=None,
)  # fmt: skip
PROTOCOL = Protocol(
    labels="hard", temperature=None, epochs=None, steps=6, batch_size=4, optimiser="sgd", lr=0.02, lr_for={}, momentum=0.9,
    weight_decay=5e-4, decay_matrices_only=False, schedule="cosine", cutmix=0.5, batchnorm_warmup=False, evaluations=2,
    norm="instance", side=None, test_crop=1.0, augment={},
)  # fmt: skip
MACHINE = compute.Machine(torch.device("cpu"), "fp32", False, distributed.ProcessGroup())


compile_parts = compute.compile_parts


def noise_images(count, seed):
    rng = torch.Generator().manual_seed(seed)
    return ImageSet(torch.randint(256, (count, 1, 8, 8), generator=rng, dtype=torch.uint8), torch.arange(count) % 2)


class Cell(Students):
    """The stage of a cell of three noise sets and two seeds, without anything on disk before it."""

    sets = [noise_images(6, n) for n in range(3)]
    tiles = 1
    held_out = noise_images(20, 99)
    spec: cell.CellSpec

    def fingerprint(self, *, whole=False):
        return "f"

    def units(self):
        return [Unit(f"run-{d}-{s}.json", (d, s)) for d in range(3) for s in range(2)]

    def assemble(self, units):
        self.records = [files.read_json(self.unit_path(unit)) for unit in units]


def run(directory, **changes):
    """The records of all runs, in order."""
    node = SimpleNamespace(
        address="cell", place="cell", row="", arguments=("noise", "3", "convnet", "p"), outs=("cell.json",), data=()
    )
    stage = Cell(None, directory, node, {})
    stage.machine = MACHINE
    stage.spec = cell.CellSpec(**{
        "student": "convnet", "network": "convnet", "side": 8, "classes": 2, "statistics": ([0.5], [0.25]),
        "protocol": PROTOCOL, "augment": AUGMENT, "options": {}, "machine": MACHINE, "root_seed": 7,
    } | changes)  # fmt: skip
    harness.execute(stage)
    return stage.records


def finished(directory):
    """The files of runs that are there whole."""
    return sorted(directory.glob("scratch/cell/f/run-*.json"))


@pytest.fixture
def cores():
    """Sets how many runs train side by side, whatever this machine has."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_scores_do_not_depend_on_the_number_of_cores(tmp_path, cores):
    """One, two or five runs at a time: the same records, in order of draw and seed."""
    found = []
    for count in (1, 2, 5):
        cores(count)
        found.append(run(tmp_path / str(count)))
        assert torch.get_num_threads() == count

    assert found[0] == found[1] == found[2]
    assert [(r["draw"], r["seed"]) for r in found[0]] == [(d, s) for d in range(3) for s in range(2)]
    assert len({json.dumps(r["curve"]) for r in found[0]}) == 6


def test_long_runs_are_compiled_and_still_do_not_depend_on_the_number_of_cores(tmp_path, cores, monkeypatch):
    """Runs side by side compile at once; their records are those of runs one after the other."""
    monkeypatch.setattr(cell, "COMPILING_PAYS_SMALL", 1)
    machine = dataclasses.replace(MACHINE, compile=True)
    found, parts = [], []
    monkeypatch.setattr(compute, "compile_parts", lambda made: parts.append(made) or compile_parts(made))
    for count in (1, 3):
        cores(count)
        found.append(run(tmp_path / str(count), machine=machine))

    assert len(parts) == 12
    assert found[0] == found[1]
    eager = run(tmp_path / "eager")
    assert [r["curve"][-1][1] for r in found[0]] == pytest.approx([r["curve"][-1][1] for r in eager], abs=0.02)


def test_a_run_is_compiled_by_the_pixels_that_it_sees():
    """Small images by their pixels, larger ones by steps; the digits' 300 steps of 64 images of 8 px are not."""
    plan = dataclasses.replace(PROTOCOL.plan("convnet", ipc=10, classes=10, images=100), steps=300, batch_size=64)
    asked = functools.partial(cell.compiling_pays, device=torch.device("cpu"))

    assert not asked(plan, "convnet", side=8)
    assert not asked(dataclasses.replace(plan, steps=50), "convnet", side=32)
    assert asked(plan, "convnet", side=32)
    assert asked(plan, "convnet", side=224)
    assert not asked(dataclasses.replace(plan, steps=99), "convnet", side=224)


def test_every_run_computes_on_one_thread(tmp_path, cores, monkeypatch):
    """Side by side, runs share the cores instead of fighting for them."""
    cores(3)
    seen, train = [], cell.train_student
    monkeypatch.setattr(cell, "train_student", lambda *a, **k: seen.append(torch.get_num_threads()) or train(*a, **k))
    run(tmp_path)

    assert seen == [1] * 6


def test_finished_runs_are_not_trained_again(tmp_path, monkeypatch):
    """A restarted cell reads what its predecessor wrote, and trains only the rest."""
    whole = run(tmp_path)
    (tmp_path / "scratch/cell/f/run-1-0.json").unlink()
    trained, train = [], cell.train_student
    monkeypatch.setattr(cell, "train_student", lambda *a, **k: trained.append(k["seed"]) or train(*a, **k))

    assert run(tmp_path) == whole
    assert len(trained) == 1


def test_a_failing_run_stops_the_others_and_is_the_one_that_is_named(tmp_path, cores, monkeypatch):
    """The first error is raised; runs in progress end at their next step, waiting ones never begin."""
    cores(2)
    long = PROTOCOL.model_copy(
        update={"steps": 3000}
    )  # over ten seconds: only a run that was stopped ends without a file
    begun, train = [], cell.train_student

    def one_fails(network, images, held_out, setup, **options):
        begun.append(options["seed"])
        if len(begun) == 1:
            optimiser = dataclasses.replace(setup.plan.optimiser, lr=1e30)
            setup = dataclasses.replace(setup, plan=dataclasses.replace(setup.plan, optimiser=optimiser))
        return train(network, images, held_out, setup, **options)

    monkeypatch.setattr(cell, "train_student", one_fails)
    with pytest.raises(NumericsError, match="wanted a finite number"):
        run(tmp_path, protocol=long)
    assert len(begun) < 6
    assert not finished(tmp_path)


def test_an_interrupt_stops_every_run(tmp_path, cores, monkeypatch):
    """Ctrl-C ends the stage although other threads train; what was finished stays."""
    cores(2)
    begun, train = [], cell.train_student

    def only_two_are_short(network, images, held_out, setup, **options):
        begun.append(options["seed"])
        if len(begun) > 2:
            setup = dataclasses.replace(setup, plan=dataclasses.replace(setup.plan, steps=3000))
        return train(network, images, held_out, setup, **options)

    def interrupted(items, **_):
        for number, item in enumerate(items):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(cell, "train_student", only_two_are_short)
    monkeypatch.setattr(executors.progress, "track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(finished(tmp_path)) == 2
    assert files.read_json(finished(tmp_path)[0])["curve"]


@pytest.mark.parametrize(
    ("student", "side", "device", "expected"),
    [("convnet", 8, "cpu", True), ("resnet18", 64, "cpu", True), ("convnet", 224, "cpu", False),
     ("timm:resnet18", 8, "cpu", False), ("convnet", 8, "cuda", False)],
)  # fmt: skip
def test_what_runs_on_one_thread(student, side, device, expected):
    """Own networks on small images on the CPU; the others have the machine, or the global stream, alone."""
    assert cell.runs_on_one_thread(student, side=side, device=torch.device(device)) is expected


def test_the_number_of_threads_comes_back(cores):
    """Also after an error."""
    cores(2)
    with pytest.raises(ZeroDivisionError), compute.one_thread_each() as workers:
        assert (workers, torch.get_num_threads()) == (2, 1)
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2


def test_students_of_all_data_take_their_own_epochs():
    """Where the protocol has some; those of sets do not."""
    protocol = PROTOCOL.model_copy(update={"full_epochs": 9})

    assert Students.rules(None, protocol) is protocol
    assert (FullData.rules(None, protocol).epochs, FullData.rules(None, protocol).steps) == (9, None)


def test_a_cell_under_dsa_trains_on_normalised_images_batch_by_batch(tmp_path, monkeypatch):
    """The statistics of the real images reach the augmentation, and the training knows that batches go alone."""
    seen = []

    def spy(network, images, held_out, setup, **options):
        seen.append((setup.by_batch, setup.augmentation(torch.zeros(1, 1, 8, 8), 0).unique().tolist()))
        raise NumericsError("enough")

    monkeypatch.setattr(cell, "train_student", spy)
    strengths = {"brightness": 0.0, "saturation": 1.0, "contrast": 0.5, "flip": 0.5, "scale": 1.0, "rotate": 0.0}
    dsa = Dsa(operations=["cutout"], crop=0.0, cutout=1.0, **strengths)
    with pytest.raises(NumericsError, match="enough"):
        run(tmp_path, augment=AUGMENT.model_copy(update={"dsa": dsa, "crop_scale": None}))
    assert seen[0][0] and 0.5 in seen[0][1]  # what is cut out has the mean colour
