"""The machine: devices, threads and processes are decided once, and what cannot work is one line."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from ims3core.base import caches, compute
from ims3core.errors import ParameterError

SECTION = {"device": "auto", "precision": "fp32", "compile": False, "threads": 1}


def test_no_gpu_means_the_processor():
    """auto takes what there is; cuda is refused where there is none."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert compute.machine(**SECTION).device.type == "cpu"
    with pytest.raises(ParameterError, match=r"compute\.device: found 'cuda', but torch sees no CUDA device"):
        compute.machine(**SECTION | {"device": "cuda"})


def test_more_processes_than_gpus_are_refused(monkeypatch):
    """Two processes on one GPU would fail inside NCCL; on the processor they are welcome."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ParameterError, match=r"compute\.launch: found 2 processes and 1 GPU on this machine"):
        compute.machine(**SECTION)
    assert compute.machine(**SECTION | {"device": "cpu"}).device.type == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert compute.machine(**SECTION).device == torch.device("cuda", 0)


def test_automatic_precision_is_what_the_hardware_computes(monkeypatch, caplog):
    """auto is bf16 where that is the fast one and fp32 elsewhere; bf16 by name is obeyed, with one warning."""
    automatic, named = (
        SECTION | {"device": "cpu", "precision": "auto"},
        SECTION | {"device": "cpu", "precision": "bf16"},
    )

    monkeypatch.setattr(compute, "computes_bf16", lambda device: True)
    assert compute.machine(**automatic).precision == compute.machine(**named).precision == "bf16"
    assert not caplog.messages

    monkeypatch.setattr(compute, "computes_bf16", lambda device: False)
    assert compute.machine(**automatic).dtype == torch.float32
    assert compute.machine(**named).dtype == torch.bfloat16
    assert len(caplog.messages) == 1 and "gains nothing on this cpu" in caplog.text


def test_weights_that_are_not_constant_may_change_under_a_compiled_network(monkeypatch, tmp_path):
    """Weights of another phase, put in place, are the ones the next call uses; constants would be the old ones."""
    monkeypatch.setattr(compute, "SMALL", 0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network = torch.nn.Linear(3, 2)
    call = compute.machine(device="cpu", precision="fp32", compile=True, threads=1).for_inference(
        network, constant=False
    )
    with torch.inference_mode():
        before = call(torch.ones(1, 3))
        network.weight.data.mul_(3)
        after = call(torch.ones(1, 3))
    torch.testing.assert_close(after, network(torch.ones(1, 3)))
    assert not torch.allclose(before, after)


class Doubled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(self.inner(x))


@pytest.mark.parametrize("fault", ["no compiler", "no folder"])
def test_without_a_compiler_or_a_cache_one_line_and_on(monkeypatch, tmp_path, caplog, fault):
    """A missing g++, and a cache folder that cannot be made: one warning each, the same numbers."""
    if fault == "no compiler":
        from torch._inductor import cpp_builder, exc

        def missing():
            raise exc.InvalidCxxCompiler

        monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    else:
        (tmp_path / "file").write_text("not a folder")
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(compute, "SMALL", 0)
    machine, network = compute.machine(**SECTION | {"device": "cpu", "compile": True}), Doubled()
    wanted = network(torch.ones(1, 3))

    frozen = machine.for_inference(network, parts=[network.inner])
    machine.for_training(network, parts=[network], pays=True)

    torch.testing.assert_close(frozen(torch.ones(1, 3)), wanted)
    said = {
        "no compiler": "no C++ compiler such as g++ is installed",
        "no folder": "cannot be written: Not a directory",
    }
    assert len(caplog.messages) == 2
    assert all(said[fault] in message for message in caplog.messages)
    assert network._compiled_call_impl is None


@pytest.mark.parametrize("training", [True, False])
def test_a_compiler_that_fails_at_work_ends_in_one_line_and_the_plain_network(monkeypatch, tmp_path, caplog, training):
    """Such as on a full disk: all parts go on as they are, once one has failed, with the same gradients."""

    def full(graph, inputs):
        raise OSError(28, "No space left on device")

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: plain(self, backend=full, **options))
    monkeypatch.setattr(compute, "SMALL", 0)
    monkeypatch.setenv(caches.COMPILED, str(tmp_path))
    torch._dynamo.reset()
    network = torch.nn.Sequential(Doubled(), torch.nn.GELU(), Doubled())
    machine, inputs = compute.machine(**SECTION | {"device": "cpu", "compile": True}), torch.ones(2, 3)
    wanted = torch.autograd.grad(network(inputs).sum(), list(network.parameters()))
    if training:
        machine.for_training(network, parts=list(network), pays=True)
        found = torch.autograd.grad(network(inputs).sum(), list(network.parameters()))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    else:
        before = network(inputs)
        assert torch.equal(machine.for_inference(network, parts=list(network))(inputs), before)
    said = [record.getMessage() for record in caplog.records if record.name == compute.__name__]
    assert said == [compute.NO_COMPILER % "No space left on device"]
    assert all(part._compiled_call_impl is None for part in network)


TRAINS = """
import torch
from ims3core.base import compute
machine = compute.machine(device="cpu", precision="fp32", compile=True, threads=1)
network = machine.for_training(torch.nn.Linear(64, 64), parts=[], pays=True)
compute.compile_parts([network])
network(torch.ones(2, 64)).sigmoid().sum().backward()
print(network._compiled_call_impl is not None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [True, False])
def test_compiling_needs_no_room_among_temporary_files(tmp_path, room):
    """The headers that torch compiles first stay in the cache folder; without room there training goes on, one line."""
    (tmp_path / "temporary").mkdir()
    places = {caches.COMPILED: str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "temporary")}
    limit = "" if room else "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    done = subprocess.run(
        [sys.executable, "-c", limit + TRAINS], env=os.environ | places, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(room), done.stderr
    assert done.stderr.count("no working compiler") == (not room)
    assert not any(path.is_file() for path in (tmp_path / "temporary").rglob("*"))
    assert not room or sum(path.stat().st_size for path in (tmp_path / "cache/headers").rglob("*")) > 1e7


def test_training_is_compiled_where_it_pays(monkeypatch, tmp_path):
    """Gradients are those of the plain network, also of one term after the other."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    machine = compute.machine(**SECTION | {"device": "cpu", "compile": True})
    plain, short = Doubled(), Doubled()
    compiled = copy.deepcopy(plain)

    machine.for_training(short, parts=[short], pays=False)
    machine.for_training(compiled, parts=[compiled], pays=True)

    assert short._compiled_call_impl is None and compiled._compiled_call_impl is not None
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for network in (plain, compiled):
        out = network(torch.ones(2, 3))
        network.kept = [
            torch.autograd.grad(term, list(network.parameters()), retain_graph=True)
            for term in (out.sum(), out.square().sum())
        ]
    for a, b in zip(plain.kept, compiled.kept, strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_training_adds_in_a_fixed_order(monkeypatch, tmp_path):
    """Threads that each add to the row of a label must not race: the same step gives the same gradient, bit for bit."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        machine = compute.machine(**SECTION | {"device": "cpu", "compile": True, "threads": 2})
        network, labels = torch.nn.Embedding(3, 512), torch.arange(4096) % 3
        machine.for_training(network, parts=[network], pays=True)
        weight = torch.randn(4096, 512, generator=torch.Generator().manual_seed(0))
        gradients = []
        for _ in range(30):
            (network(labels) * weight).sum().backward()
            gradients.append(network.weight.grad.clone())
            network.weight.grad = None
        assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before)
