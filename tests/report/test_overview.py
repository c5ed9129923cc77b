"""Several profiles side by side: the numbers of the tables against plain arithmetic, gaps, bad input."""

import re

import pandas as pd
import pytest

from ims3core.errors import ArtifactError, ParameterError
from ims3core.report import overview, tables


def frame(scores, protocol="steps"):
    """(method, IPC) -> accuracies, two seeds a set."""
    rows = [
        (method, ipc, "convnet", protocol, n // 2, n % 2, value, value + 1)
        for (method, ipc), values in scores.items()
        for n, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=tables.RUN_COLUMNS)


RUNS = {
    "one": frame({
        ("dit", "1"): [50, 52, 48, 50], ("mine", "1"): [60, 60, 60, 60], ("ims3", "1"): [70, 70, 70, 70],
        ("dit", "10"): [80], ("ims3", "10"): [79], ("mine", "10"): [79], ("full", "full"): [90, 90],
    }),
    "two": frame({("ims3", "1"): [30, 32], ("full", "full"): [40]}),
}  # fmt: skip


def cells(text, row, table):
    lines = re.split(r"\n\n", text)[2 * table].splitlines()
    found = next(line for line in lines if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in found.strip("|").split("|")[1:]]


def test_accuracies_stand_side_by_side():
    """Mean and spread of the last epoch, the best of a column bold, a dash where a row was not run."""
    text = overview.markdown(RUNS, protocol="steps")
    assert text.splitlines()[0] == "| method | one, IPC 1 | one, IPC 10 | two, IPC 1 |"
    assert cells(text, "DiT", 0) == ["50.0 ± 1.6", "**80.0**", "–"]
    assert cells(text, "IMS3", 0) == ["**70.0 ± 0.0**", "79.0", "**31.0 ± 1.4**"]
    assert cells(text, "Full data", 0) == ["90.0 ± 0.0", "90.0 ± 0.0", "40.0"]
    rows = [line.split("|")[1].strip() for line in text.split("\n\n")[0].splitlines()[2:]]
    assert rows == ["DiT", "IMS3", "mine", "Full data"]


def test_shares_are_of_the_gap_from_dit_to_full_data():
    """(method - DiT) / (full - DiT); nothing where there is no DiT."""
    text = overview.markdown(RUNS, protocol="steps")
    assert cells(text, "IMS3", 1) == ["50", "-10", "–"] and cells(text, "mine", 1) == ["25", "-10", "–"]


def test_a_table_that_is_none_is_named(tmp_path):
    """Missing, damaged, other columns, another protocol: one line each."""
    path = tmp_path / "mine/accuracy.csv"
    with pytest.raises(ArtifactError, match="not there; `ims3 run mine` makes it"):
        overview.read(path)
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match=f"^{path}: not a table .*; `ims3 run mine` makes it anew$"):
        overview.read(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ArtifactError, match=r"columns \['a', 'b'\], wanted"):
        overview.read(path)
    RUNS["one"].to_csv(path, index=False)
    pd.testing.assert_frame_equal(overview.read(path), RUNS["one"], check_dtype=False)
    with pytest.raises(ParameterError, match="--protocol: one was not run under 'paper'; known: steps"):
        overview.markdown({"one": overview.read(path)}, protocol="paper")
