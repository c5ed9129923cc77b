"""The untracked log of wall time and memory per stage; tracked tables hold deterministic values only."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOG = Path("scratch/timings.jsonl")


@contextlib.contextmanager
def timed(root: Path, stage: str) -> Iterator[None]:
    """Appends one line about the enclosed stage to the log when it ends without an error, if there is room."""
    began = time.perf_counter()
    yield
    record = {
        "stage": stage,
        "seconds": round(time.perf_counter() - began, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if (gpu := _gpu_mib()) is not None:
        record["gpu_mib"] = gpu
    _append(root, record)


def add_workers(root: Path, stage: str, seconds: float) -> None:
    """Adds what workers took to make the units of ``stage`` to its latest record, which has what it took besides."""
    for record in read(root):
        if record["stage"] == stage:
            worked = round(seconds, 2)
            _append(root, record | {"seconds": round(record["seconds"] + worked, 2), "workers": worked})


def _append(root: Path, record: dict[str, Any]) -> None:
    path = root / LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def _gpu_mib() -> int | None:
    """Most GPU memory that this process held, or None if it used none; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(max(torch.cuda.max_memory_reserved(n) for n in range(torch.cuda.device_count()))) // 2**20


def read(root: Path) -> list[dict[str, Any]]:
    """The latest record of every stage, in the order they were last run; a line cut short by a kill is left out."""
    latest: dict[str, dict[str, Any]] = {}
    path = root / LOG
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            latest.pop(record["stage"], None)
            latest[record["stage"]] = record
    return list(latest.values())
