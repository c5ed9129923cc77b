"""The paper's own numbers beside ours: which of its cells speak of a row, student, IPC and data set of the grid.

A number whose network the paper does not state speaks of no student: it has a column of its own, :data:`UNSTATED`.
Of small images, which the paper does not have, the numbers are those of the field under the protocols of DC and DSA.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from ims3core.params.sections import Data

DATASETS = {  # data.classes -> the paper's name
    "imagewoof": "ImageWoof",
    "imagenette": "ImageNette",
    "imageidc": "ImageIDC",
    "imagenet100": "ImageNet-100",
    "imagenet1k": "ImageNet-1K",
}
SMALL = {  # data.classes or data.name -> the field's name
    "MNIST": "MNIST",
    "FashionMNIST": "Fashion-MNIST",
    "CIFAR10": "CIFAR-10",
    "cifar10": "CIFAR-10",
    "CIFAR100": "CIFAR-100",
}
SMALL_SIDES = (28, 32)  # pixels at which our convnet is the field's ConvNet-3
MODELS = {  # a part of the network's name -> the paper's name, at its sizes
    "convnet": "ConvNet-6",
    "resnetap10": "ResNetAP-10",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "timm:efficientnet_b0": "EfficientNet",
    "timm:vit": "ViT",
}
LABELS = {  # our row -> the name the paper prints, in the order of a table
    "random": "Random",
    "k_center": "K-Center",
    "herding": "Herding",
    "dm": "DM",
    "idc": "IDC-1",
    "sre2l": "SRe2L",
    "rded": "RDED",
    "dit": "DiT",
    "diffusion": "Fine-tuned",
    "minimax": "Minimax",
    "d4m": "D4M",
    "d3hr": "D3HR",
    "mgd3": "MGD3",
    "mgd3_ddim": "MGD3 (DDIM)",
    "cao2": "CaO2",
    "ddvlcp": "DDVLCP",
    "im": "IM",
    "s3": "S3",
    "ims3": "IMS3",
    "ims3_generated": "IMS3 (generated centroids)",
    "s3_image": "S3 by image",
    "ims3_plus": "IMS3+",
    "full": "Full data",
}
UNSTATED = "network not stated"  # heads the column of the numbers whose network the paper leaves open
_PRINTED = {"im": "IMS3 (IM only)", "s3": "IMS3 (S3 only)", "full": "Full"}
FOOTNOTES: dict[tuple[str, str, int | str, str], str] = {  # (data set, model, IPC, method): what is inconsistent
    ("ImageWoof", "ResNetAP-10", 50, "IMS3"): "60.1 in Table 1; without a network 60.1 in Table 7, 61.0 in Table 4; "
    "57.3 in Table 13, called real centroids",
    ("ImageNette", "unstated", 50, "DiT"): "73.3 in the papers of MGD3 and DMGD, on ResNetAP-10",
    ("ImageWoof", "ConvNet-6", 100, "IMS3"): "DDVLCP is higher in the same table (62.7), against the text",
    ("ImageNet-1K", "ResNet-18", 10, "IMS3"): "neither IPC nor network are stated; the values fit these",
}


def label(method: str) -> str:
    """The name the paper prints for ``method``; the name of the row for all others."""
    return LABELS.get(method, method)


@cache
def results() -> pd.DataFrame:
    """Every number of the paper: table, dataset, resolution, ipc, model, protocol, method, mean, std."""
    with files("ims3core.report").joinpath("paper_results.csv").open(encoding="utf-8") as handle:
        frame = pd.read_csv(handle, dtype={"table": str, "ipc": str, "resolution": str})
    stated = {name: frame[name].str.removesuffix(" (inferred)") for name in ("dataset", "model", "ipc")}
    return frame.assign(**stated)


@cache
def _cells() -> dict[tuple[str, str, str, str, str], list[Any]]:
    """The lines of every cell, by data set, resolution, model, method and IPC; full data has none."""
    cells: dict[tuple[str, str, str, str, str], list[Any]] = {}
    for row in results().itertuples():
        ipc = "" if row.method == _PRINTED["full"] else str(row.ipc)
        cells.setdefault((row.dataset, row.resolution, row.model, row.method, ipc), []).append(row)
    return cells


def dataset(section: Data) -> str | None:
    """What a data set is called here: by its class list, or by torchvision's name."""
    return section.classes or (section.name if section.source == "torchvision" else None)


@cache
def small_images() -> pd.DataFrame:
    """What the field publishes of small images: dataset, ipc, network, protocol, method, mean, std, and where from.

    ``differs`` says what is not as in the protocol; ``read_in`` the table that the number was read in, where that is
    not the source itself. Full data has no IPC.
    """
    with files("ims3core.report").joinpath("published_small.csv").open(encoding="utf-8") as handle:
        return pd.read_csv(handle, dtype={"ipc": str, "differs": str}, keep_default_na=False, na_values={"std": [""]})


def others(*, dataset: str | None, resolution: int, protocol: str) -> list[str]:
    """The methods that the field publishes of a data set under a protocol and of which we have no row."""
    ours = {_PRINTED.get(row, printed) for row, printed in LABELS.items()}
    of_set = _of_small(dataset, resolution, protocol)
    return [name for name in dict.fromkeys(of_set["method"]) if name not in ours]


def _of_small(dataset: str | None, resolution: int, protocol: str) -> pd.DataFrame:
    """The lines of the field's table that are of this data set, size and protocol."""
    frame = small_images()
    fits = (frame["dataset"] == SMALL.get(dataset or "")) & (frame["protocol"] == protocol)
    return frame[fits & (resolution in SMALL_SIDES)]


def find(
    *, dataset: str | None, resolution: int, network: str | None, ipc: int | str, method: str, protocol: str = ""
) -> tuple[str, str]:  # fmt: skip
    """The published number for one cell, as text, and a footnote; both empty where there is none.

    Where several tables of the paper print the cell, the lowest table number is taken; the footnote has what differs
    from it.

    Args:
        dataset: as :func:`dataset` names it.
        network: of the student; None: what the paper prints without stating one.
        method: a row of ours, or one of :func:`others`.
        protocol: of our students; numbers of small images are of ``dc`` or ``dsa``, those of the paper of all.
    """
    if dataset in SMALL:
        of_set = _of_small(dataset, resolution, protocol if network == "convnet" else "")
        wanted = "" if method == "full" else str(ipc)
        rows = of_set[(of_set["method"] == _PRINTED.get(method, label(method))) & (of_set["ipc"] == wanted)]
        return next(((number(row), row.differs) for row in rows.itertuples()), ("", ""))
    name, model = DATASETS.get(dataset or "", ""), _model(network)
    printed = _PRINTED.get(method, label(method))
    chosen = _cells().get((name, str(resolution), model, printed, "" if method == "full" else str(ipc)), [])
    if not chosen:
        return "", ""
    notes = ["the paper does not state the network"] if network is None else []
    values = {number(row): row for row in reversed(chosen)}
    if len(values) > 1:
        said = [f"{text} in Table {row.table} ({_labels(row)})" for text, row in reversed(values.items())]
        notes.append(" and ".join(said))
    notes += [note for note in [FOOTNOTES.get((name, model, ipc, printed))] if note]
    return number(chosen[0]), "; ".join(notes)


def absent(*, dataset: str | None, resolution: int) -> str:
    """One sentence for a grid of which no cell is in the paper: whether its data set is there at all."""
    if dataset in SMALL:
        return f"The field's numbers for {SMALL[dataset]} are of a ConvNet-3 under the protocols dc and dsa."
    frame = results()
    of_set = frame[frame["dataset"] == DATASETS.get(dataset or "")]
    if of_set.empty:
        return "The paper has no number for this data set."
    name, cells = of_set["dataset"].iloc[0], of_set[of_set["resolution"] == str(resolution)]
    if cells.empty:
        sizes = " and ".join(dict.fromkeys(of_set["resolution"]))
        return f"The paper has numbers for {name} at {sizes} px, none at {resolution} px."
    ipcs = ", ".join(sorted(set(cells["ipc"]), key=int))
    models = ", ".join(model for model in dict.fromkeys(cells["model"]) if model != "unstated")
    return f"The paper's numbers for {name} at {resolution} px are of other cells: IPC {ipcs}, on {models}."


def _model(network: str | None) -> str:
    """The paper's name of a student's network; empty for one that it does not use."""
    if network is None:
        return "unstated"
    return next((paper for part, paper in reversed(MODELS.items()) if network.startswith(part)), "")


def number(row: Any) -> str:
    """The mean and, where it is printed, the spread of a line of either table."""
    return f"{row.mean:.1f}" if pd.isna(row.std) else f"{row.mean:.1f} ± {row.std:.1f}"


def _labels(row: Any) -> str:
    return str(row.protocol).replace(" (inferred)", ", inferred")
