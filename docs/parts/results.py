"""Tables and sentences made from the committed results."""

from __future__ import annotations

import pandas as pd

from ims3core.report import overview, published, tables
from ims3core.report.artifacts import FULL
from ims3core.report.statistics import gap_share
from parts.common import ROOT, table

SHOWN = ("digits", "fashion", "imagenette-small")


def digits() -> str:
    """The default grid, from metrics/accuracy.csv."""
    runs = overview.read(ROOT / "metrics/accuracy.csv")
    return _first_table(overview.markdown({"digits": runs}, protocol="steps")).replace("digits, IPC", "IPC")


def digits_says() -> str:
    """What the table of the digits says, from the same numbers and metrics/comparisons.csv."""
    summary = tables.summary(overview.read(ROOT / "metrics/accuracy.csv")).set_index(["method", "ipc"])["mean"]
    compared = pd.read_csv(ROOT / "metrics/comparisons.csv", dtype={"ipc": str}).set_index(["method", "ipc", "other"])

    def share(ipc: str) -> str:
        floor, full = summary["dit", ipc], summary[FULL, FULL]
        return f"{gap_share(summary['ims3_plus', ipc], floor=floor, full=full):.0f} %"

    def over(method: str, ipc: str) -> str:
        row = compared.loc[(method, ipc, "dit")]
        return f"{row['difference']:.1f} ± {row['half_width']:.1f}"

    return (
        f"IMS3+, which is ours, closes {share('1')} of the gap from plain DiT to full data at IPC 1\n"
        f"({over('ims3_plus', '1')} points) and {share('10')} at IPC 10 ({over('ims3_plus', '10')}).\n"
        f"Of the paper's rows, S3 is {over('s3', '1')} points above plain DiT at IPC 1 and IMS3 "
        f"{over('ims3', '1')};\nat IPC 10 {over('s3', '10')} and {over('ims3', '10')}."
    )


def three_data_sets() -> str:
    """Accuracies and shares of the gap on the three data sets, as `ims3 results` prints them."""
    return overview.markdown({name: _profile(name) for name in SHOWN}, protocol="steps")


def all_systems() -> str:
    """Every system on the digits, under both protocols."""
    runs = _profile("digits-all")
    parts = [
        f"{name}:\n\n{_first_table(overview.markdown({'x': runs}, protocol=name)).replace('x, IPC', 'IPC')}"
        for name in runs["protocol"].unique()
    ]
    return "\n\n".join(parts)


def small_images() -> str:
    """What the field publishes of Fashion-MNIST and CIFAR-10 with a ConvNet-3, under its two protocols."""
    names, frame = ("Fashion-MNIST", "CIFAR-10"), published.small_images()
    frame = frame[frame["dataset"].isin(names)]
    columns, printed = [(name, ipc) for name in names for ipc in ("1", "10", "50")], list(published.LABELS.values())
    rows = dict.fromkeys(zip(frame["protocol"], frame["method"], strict=True))
    lines = []
    for protocol, method in sorted(rows, key=lambda row: (row[0], row[1] == "Full", row[1] not in printed)):
        of_row = frame[(frame["protocol"] == protocol) & (frame["method"] == method)]
        cells = [of_row[(of_row["dataset"] == name) & of_row["ipc"].isin([ipc, ""])] for name, ipc in columns]
        differs = next((text for text in of_row["differs"] if text), "")
        texts = [published.number(next(cell.itertuples())) if len(cell) else "–" for cell in cells]
        lines.append((f"`{protocol}`", method, *texts, differs))
    heads = ("protocol", "method", *(f"{name}, IPC {ipc}" for name, ipc in columns), "not as in the protocol")
    return table(heads, lines)


def _profile(name: str) -> pd.DataFrame:
    return overview.read(ROOT / "metrics/profiles" / name / "accuracy.csv")


def _first_table(text: str) -> str:
    return text.partition("\n\n")[0]
