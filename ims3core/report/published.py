"""The paper's own numbers beside ours: which of its cells speak of a row, student, IPC and data set of the grid."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

DATASETS = {  # data.classes -> the paper's name
    "imagewoof": "ImageWoof",
    "imagenette": "ImageNette",
    "imageidc": "ImageIDC",
    "imagenet100": "ImageNet-100",
    "imagenet1k": "ImageNet-1K",
}
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
_PRINTED = {"im": "IMS3 (IM only)", "s3": "IMS3 (S3 only)", "full": "Full"}
FOOTNOTES: dict[tuple[str, str, int | str, str], str] = {  # (data set, model, IPC, method): what is inconsistent
    ("ImageWoof", "ResNetAP-10", 50, "IMS3"): "60.1 in Tables 1 and 7, 61.0 in Table 4, 57.3 in Table 13",
    ("ImageNette", "ResNetAP-10", 50, "DiT"): "82.9 in Table 4, 73.3 in the papers of MGD3 and DMGD",
    ("ImageWoof", "ResNet-18", 10, "Minimax"): "37.6 in Table 1, 40.1 in Table 6, under other labels",
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


def find(*, dataset: str | None, resolution: int, network: str, ipc: int | str, method: str) -> tuple[str, str]:
    """The paper's number for one cell, as text, and a footnote; both empty where it has none.

    Several tables may print one cell; the lowest table number is taken.

    Args:
        dataset: the name in ``data.classes``.
        network: of the student.
    """
    name = DATASETS.get(dataset or "")
    model = next((paper for part, paper in reversed(MODELS.items()) if network.startswith(part)), None)
    printed = _PRINTED.get(method, label(method))
    frame = results()
    chosen = frame[
        (frame["dataset"] == name) & (frame["resolution"] == str(resolution)) & (frame["method"] == printed)
        & frame["model"].isin([model, "unstated"]) & ((frame["ipc"] == str(ipc)) | (method == "full"))
    ]  # fmt: skip
    if chosen.empty:
        return "", ""
    first = chosen.iloc[0]
    spread = "" if pd.isna(first["std"]) else f" ± {first['std']:.1f}"
    return f"{first['mean']:.1f}{spread}", FOOTNOTES.get((name or "", model or "", ipc, printed), "")
