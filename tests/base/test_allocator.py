"""Memory that was freed is there for the next tensor: no page of it is asked of the system again."""

import os
import subprocess
import sys

import pytest

from ims3core.base import allocator

STEPS = """
import resource, sys, threading
import torch
from ims3core.base import allocator, compute
if sys.argv[1] == "machine":
    compute.machine(device="cpu", precision="fp32", compile=False, threads=1)
print(allocator.keep_freed_memory() if sys.argv[1] == "asked" else "")
def step():
    return torch.zeros(2**24).add(1).sum().item()
def steps():
    for _ in range(8):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(16):
        assert step() == 2**24
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "first":
    steps()
else:
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
"""


LARGE = """
import resource
import torch
from ims3core.base import allocator
allocator.keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
def step():
    blocks = [torch.ones(2**26, dtype=torch.uint8) for _ in range(40)]  # 2.5 GiB
for _ in range(3):
    step()
before, kept = faults(), resident()
step()
again = faults() - before
allocator.give_back()
print(again, kept, resident())
"""


CLEAN = {name: value for name, value in os.environ.items() if name not in (*allocator.OWN_CHOICE, allocator.ARENAS)}


def run(how, thread="first", **environment):
    command = [sys.executable, "-c", STEPS, how, thread]
    printed = subprocess.run(command, env=CLEAN | environment, capture_output=True, text=True, check=True).stdout
    return printed.split("\n")[0], int(printed.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_steps_ask_for_no_page_twice():
    """Two tensors of 64 MiB a step are 32,768 pages of 4 KiB where nothing is kept; now and then the heap still grows."""
    assert run("not")[1] > 400_000
    said, faults = run("asked")
    assert said == "True" and faults < 100_000
    assert run("machine")[1] < 100_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_nor_does_a_thread_that_is_not_the_first():
    """Students train on such threads, and units of a worker: an arena of their own holds no block of 64 MiB."""
    assert run("asked", "second")[1] < 100_000
    assert run("asked", "second", MALLOC_ARENA_MAX="8")[1] > 400_000, "as the environment says"
    assert run("not", "second", **allocator.ONE_ARENA)[1] > 400_000, "one arena alone keeps nothing"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_more_than_two_gigabytes_are_kept_too_and_can_be_given_back():
    """The largest threshold that glibc can be told is 2 GiB: a step that frees more paid for all of it each time."""
    printed = subprocess.run(
        [sys.executable, "-c", LARGE], env=CLEAN, capture_output=True, text=True, check=True
    ).stdout
    again, resident, after = map(int, printed.split())
    assert again < 50_000, "of 655,360 pages"
    assert resident > 2560 and after < 1536


@pytest.mark.parametrize("name", allocator.OWN_CHOICE)
def test_the_environment_decides_if_it_says_anything(monkeypatch, name):
    """Whoever sets glibc's variables has what they say."""
    monkeypatch.setenv(name, "")
    assert allocator.keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    """One without mallopt."""
    for name in allocator.OWN_CHOICE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
