"""bf16 where it is the fast one: measured on a processor, once, and kept."""

import json

import pytest
import torch

from ims3core.base import measurements, precision

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of a user."""
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "ims3/bf16.json"


@pytest.mark.parametrize(
    ("product", "convolution", "fast"),
    [(2.1, 1.9, True), (5.0, 2.0, True), (2.1, 1.2, False), (0.1, 0.0, False)],
    ids=["AVX-512 BF16", "AMX", "slow convolutions", "emulated"],
)
def test_both_must_win_and_the_answer_is_kept(cache, monkeypatch, product, convolution, fast):
    """The second question is answered from the file; a damaged one is measured again."""
    asked = []
    monkeypatch.setattr(
        precision, "speeds", lambda: asked.append(1) or {"product": product, "convolution": convolution}
    )
    assert precision.computes_bf16(CPU) is precision.computes_bf16(CPU) is fast
    assert len(asked) == 1 and list(json.loads(cache.read_text()).values()) == [
        {"product": product, "convolution": convolution}
    ]
    cache.write_text("{")
    assert precision.computes_bf16(CPU) is fast and len(asked) == 2


def test_another_torch_or_processor_is_measured_anew(cache, monkeypatch):
    """What was found holds for the processor and the torch that it was found with."""
    asked = []
    monkeypatch.setattr(precision, "speeds", lambda: asked.append(1) or {"product": 2.0, "convolution": 2.0})
    precision.computes_bf16(CPU)
    for place, name, value in (
        (precision, "processor", lambda device: "another"), (precision.torch, "__version__", "0"),
        (precision.torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT"),
    ):  # fmt: skip
        with monkeypatch.context() as changed:
            changed.setattr(place, name, value)
            precision.computes_bf16(CPU)
    assert len(asked) == 4


def test_a_cache_that_cannot_be_written_is_no_fault(monkeypatch, tmp_path):
    """It is measured in each process then."""
    (tmp_path / "ims3").write_text("a file where the folder would be")
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.setattr(precision, "speeds", lambda: {"product": 2.0, "convolution": 2.0})
    assert precision.computes_bf16(CPU)


def test_what_is_measured_is_what_takes_longer(monkeypatch):
    """Ratios are of the least processor times, in turn, on one thread; where products lose nothing else is timed."""
    clock, calls, threads = [0.0], [], torch.get_num_threads()
    costs = {torch.float32: iter([9.0, 4.0, 5.0, 6.0]), torch.bfloat16: iter([9.0, 3.0, 2.0, 8.0])}

    def build(dtype):
        def call():
            calls.append(dtype)
            clock[0] += next(costs[dtype])

        return call

    monkeypatch.setattr(precision.time, "process_time", lambda: clock[0])
    assert precision._ratio(build) == 2.0 and calls == [torch.float32, torch.bfloat16] * 4
    monkeypatch.undo()
    ratios = iter([1.0, 7.0])
    monkeypatch.setattr(precision, "_ratio", lambda build: next(ratios))
    assert precision.speeds() == {"product": 1.0, "convolution": 0.0}
    ratios = iter([2.0, 7.0])
    assert precision.speeds() == {"product": 2.0, "convolution": 7.0} and torch.get_num_threads() == threads


def test_a_measurement_of_this_processor():
    """Whatever it is, both take time, gradients are computed, and no random number is drawn."""
    before = torch.get_rng_state()
    found = precision.speeds()
    assert torch.equal(torch.get_rng_state(), before)
    assert found["product"] > 0 and (found["convolution"] > 0) is (found["product"] >= precision.WINS)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_asked(monkeypatch, native):
    """Without emulation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert precision.computes_bf16(torch.device("cuda")) is native
