"""What a training leaves: its checkpoint, in one atomic step, and its loss curve."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ims3core.base import files
from ims3core.diffusion.training import State
from ims3core.errors import ArtifactError

CHECKPOINT = "checkpoint.safetensors"
Curve = list[dict[str, int | float]]  # one row per step that was logged


def save_checkpoint(directory: Path, state: State) -> None:
    """Writes weights, EMA, both Adam moments and the log in one atomic step."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in state.weights.items():
        moments = state.optimiser.state[parameter]
        tensors |= {f"weight.{name}": parameter, f"ema.{name}": state.ema[name]}
        if moments:
            tensors |= {f"exp_avg.{name}": moments["exp_avg"], f"exp_avg_sq.{name}": moments["exp_avg_sq"]}
    tensors |= {f"memory.{name}": values for name, values in state.memory.items()}
    # Not files.write_json: the order of the columns must survive, or a resumed curve.csv would differ.
    files.write_bytes(directory / f"curve-{state.step}.json", json.dumps(state.curve).encode())
    files.write_tensors(directory / CHECKPOINT, tensors, {"step": str(state.step)})
    for path in directory.glob("curve-*.json"):
        if path.name != f"curve-{state.step}.json":
            path.unlink()


def load_checkpoint(directory: Path, state: State) -> None:
    """Continues from the checkpoint in ``directory``, if there is one."""
    path = directory / CHECKPOINT
    if not path.is_file():
        return
    from safetensors import safe_open

    tensors = files.read_tensors(path)
    with safe_open(path, "pt") as stream:
        state.step = int(stream.metadata()["step"])
    state.curve = files.read_json(directory / f"curve-{state.step}.json", Curve)
    state.memory = {name.removeprefix("memory."): t for name, t in tensors.items() if name.startswith("memory.")}
    for name, parameter in state.weights.items():
        try:
            parameter.data.copy_(tensors[f"weight.{name}"])
            state.ema[name] = tensors[f"ema.{name}"].to(parameter.device)
            state.optimiser.state[parameter] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
        except KeyError as error:
            raise ArtifactError(f"{path}: {error.args[0]} is missing; delete {directory} to start afresh") from error


def checkpoint_every(directory: Path, steps: int, state: State) -> None:
    """Saves a checkpoint after every ``steps`` steps."""
    if state.step % steps == 0:
        save_checkpoint(directory, state)


def write_curve(path: Path, curve: list[dict[str, float]]) -> None:
    """Writes the log as a table; a column that a step has no value for is left empty."""
    columns = list(dict.fromkeys(name for row in curve for name in row))
    files.write_csv(path, columns, [[row.get(name) for name in columns] for row in curve])
