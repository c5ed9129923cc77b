"""How a grid scales: the clock of the benchmark against hand-computed runs, and sleeping tasks on real workers."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("distributed")
SOURCE = Path(__file__).resolve().parents[2] / "benchmarks/cluster.py"
EDGES = {"start": [], "long": ["start"], "short": ["start"], "end": ["long", "short"]}
EACH = {"start": 10.0, "long": 8.0, "short": 2.0, "end": 0.0}
UNITS = {"start": 1, "long": 4, "short": 8, "end": 0}


@pytest.fixture(scope="module")
def benchmark():
    """The module benchmarks/cluster.py."""
    spec = importlib.util.spec_from_file_location("cluster_benchmark", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_clock_of_the_benchmark_is_right(benchmark):
    """One worker does everything; two share 48 seconds of units; more cannot be faster than the longest path."""
    assembled = benchmark.ASSEMBLY
    assert benchmark.makespan(EDGES, EACH, UNITS, 1) == 10 + assembled + 48 + 2 * assembled
    assert benchmark.makespan(EDGES, EACH, UNITS, 2) == 10 + assembled + 24 + 2 * assembled
    assert benchmark.makespan(EDGES, EACH, UNITS, 64) == 10 + assembled + 8 + 2 * assembled


@pytest.mark.filterwarnings("ignore")  # of Dask's server
def test_the_driver_hands_a_grid_to_dask(benchmark, monkeypatch):
    """Every unit is made, on workers that are real; what the driver itself takes is milliseconds a unit."""
    monkeypatch.setattr(benchmark, "plan", lambda profile, tflops: (EDGES, EACH, UNITS, 0.0))
    found = benchmark.sleep("mine", workers=4, scale=20.0, tflops=1.0)
    assert found["units"] == 13 and found["driver"] / 13 < 0.05
    assert 0 < found["busy"] <= 1 and 0 < found["of what is possible"] <= 1
