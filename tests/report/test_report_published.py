"""Every number of the paper has its place: a cell of a profile's grid, or one setting away from it."""

from pathlib import Path

import pytest

from ims3core.pipeline import profiles
from ims3core.report import published

REPOSITORY = Path(__file__).parents[2]
TEXT = profiles.text(profiles.read(REPOSITORY, "imagewoof"), "imagewoof", [])
FOLDERS = {name: key for key, name in published.DATASETS.items()}
ROWS = {published._PRINTED.get(row, printed): row for row, printed in published.LABELS.items()}
SETTINGS = {  # rows of Tables 4, 7, 8 and 13 that are a row of the grid under another setting: `-S key=value`
    "IMS3 with similarity loss 1": "im.similarity=l1",
    "IMS3 with similarity loss 2": "im.similarity=l2",
    "IMS3 with cosine loss": "im.similarity=cosine",
    "IMS3 with encoder ResNet-18": "encoder.network=resnet18.tv_in1k",
    "IMS3 with encoder ResNet-50": "encoder.network=resnet50.tv2_in1k",
    "IMS3 with encoder ResNet-101": "encoder.network=resnet101.tv2_in1k",
    "IMS3 with encoder EfficientNet": "encoder.network=efficientnet_b0.ra_in1k",
    "IMS3 with encoder CLIP": "encoder.network=vit_base_patch32_clip_224.openai",
    "IMS3 (real centroids)": "methods.ims3.centroids=real",
}
UNKNOWN = {"best baseline (unnamed)"}
ELSEWHERE = {"DDVLCP": "imagewoof-ddvlcp"}  # wants a text-to-image model and captions, so not in the grid of all


@pytest.fixture(scope="module")
def grids():
    return {name: profiles.read(REPOSITORY, name) for name in profiles.names(REPOSITORY) if name.startswith("image")}


@pytest.mark.parametrize("number", range(len(published.results())))
def test_a_cell_of_the_paper_is_in_a_profile(number, grids):
    """Data set and size name a profile; its grid has the row, the IPC and the network."""
    cell = published.results().iloc[number]
    if cell["method"] in UNKNOWN:
        return
    profile = FOLDERS[cell["dataset"]] + ("-512" if cell["resolution"] == "512" else "")
    params = grids[ELSEWHERE.get(cell["method"], profile)]
    row = "ims3" if cell["method"] in SETTINGS else ROWS[cell["method"]]
    networks = {params.network(student) for student in params.eval.students}
    models = {paper for part, paper in published.MODELS.items() for network in networks if network.startswith(part)}

    assert row == "full" or row in params.eval.methods or cell["table"].startswith(("4", "13"))
    assert row == "full" or row in {*params.methods, *params.refinements}
    assert int(cell["ipc"]) in params.eval.ipc
    assert cell["model"] in models | {"unstated"}
    if cell["method"] in SETTINGS:
        section, key = SETTINGS[cell["method"]].split("=")[0].rsplit(".", 1)
        assert f"  {key}: " in TEXT or section.startswith("methods")
