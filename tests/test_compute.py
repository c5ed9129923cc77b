"""The machine: devices, threads and processes are decided once, and what cannot work is one line."""

import pytest
import torch

from ims3core import compute
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
