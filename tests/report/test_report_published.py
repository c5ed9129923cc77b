"""Every number of the paper has its place: a cell of a profile's grid, or one setting away from it."""

import csv
import itertools
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


class TestEveryCellLandsWhereThePaperHasIt:
    """All cells that a table of ours can have, against a loop over the lines of the file."""

    SIZES = (256, 512)
    IPCS = (1, 3, 10, 20, 50, 70, 100)
    NETWORKS = (
        None, "convnet", "resnetap10", "resnet10", "resnet18", "resnet34", "resnet50", "resnet101",
        "timm:efficientnet_b0", "timm:vit_base_patch16_224", "timm:resnet18",
    )  # fmt: skip
    NAMES = {  # the paper's name of every network, written down once more
        None: "unstated", "convnet": "ConvNet-6", "resnetap10": "ResNetAP-10", "resnet18": "ResNet-18",
        "resnet50": "ResNet-50", "resnet101": "ResNet-101", "timm:efficientnet_b0": "EfficientNet",
        "timm:vit_base_patch16_224": "ViT",
    }  # fmt: skip

    @pytest.fixture
    def lines(self):
        """The lines of the file, without "(inferred)"."""
        with (REPOSITORY / "ims3core/report/paper_results.csv").open(newline="", encoding="utf-8") as stream:
            return [{key: value.removesuffix(" (inferred)") for key, value in row.items()} for row in
                    csv.DictReader(stream)]  # fmt: skip

    def test_and_nowhere_else(self, lines):
        """A cell shows its first line in the file, its note every other value; each line of a row is in some cell."""
        cells = itertools.product(published.DATASETS.items(), self.SIZES, self.IPCS, self.NETWORKS, ROWS.items())
        seen, shown = set(), 0
        for (key, name), size, ipc, network, (printed, row) in cells:
            wanted = [
                number for number, line in enumerate(lines)
                if (line["dataset"], line["resolution"], line["method"]) == (name, str(size), printed)
                and line["model"] == self.NAMES.get(network) and (line["ipc"] == str(ipc) or row == "full")
            ]  # fmt: skip
            text, note = published.find(dataset=key, resolution=size, network=network, ipc=ipc, method=row)
            assert bool(text) == bool(wanted), (name, size, ipc, network, row)
            for number in wanted:
                mean, std = (lines[number][part] for part in ("mean", "std"))
                value = f"{mean} ± {std}" if std else mean
                assert value in (text if number == wanted[0] else f"{text}; {note}")
            seen.update(wanted)
            shown += bool(text)
        settings = {number for number, line in enumerate(lines) if line["method"] in {*SETTINGS, *UNKNOWN}}
        assert shown > 250
        assert seen == set(range(len(lines))) - settings

    @pytest.mark.parametrize("network", [name for name in NETWORKS if name])
    def test_what_has_no_network_stands_beside_no_student(self, network):
        """S3's 40.9 at IPC 10 on ImageWoof, and ImageNette's 62.2, are in the column of unstated networks alone."""
        for dataset, number in (("imagewoof", "40.9 ± 0.2"), ("imagenette", "62.2 ± 1.9")):
            cell = {"dataset": dataset, "resolution": 256, "ipc": 10, "method": "s3"}
            assert published.find(**cell, network=network) == ("", "")
            assert published.find(**cell, network=None) == (number, "the paper does not state the network")


class TestSmallImages:
    """What the field publishes of MNIST, Fashion-MNIST and CIFAR."""

    @pytest.fixture
    def lines(self):
        with (REPOSITORY / "ims3core/report/published_small.csv").open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def test_every_line_is_found_once_and_nowhere_else(self, lines):
        """Under its data set, protocol, IPC and method; full data at every IPC, and each has a source."""
        ours = {published._PRINTED.get(row, printed): row for row, printed in published.LABELS.items()}
        methods = {line["method"] for line in lines}
        shown, cells = 0, itertools.product(published.SMALL.items(), ("dc", "dsa", "steps"), (1, 10, 50), methods)
        for (key, name), protocol, ipc, method in cells:
            wanted = [
                line for line in lines
                if (line["dataset"], line["protocol"], line["method"]) == (name, protocol, method)
                and line["ipc"] in (str(ipc), "") and (line["ipc"] == "") == (method == "Full")
            ]  # fmt: skip
            found = published.find(
                dataset=key, resolution=32, network="convnet", ipc=ipc, method=ours.get(method, method),
                protocol=protocol,
            )  # fmt: skip
            assert len(wanted) <= 1, (name, protocol, ipc, method)
            for line in wanted:
                number = " ± ".join(part for part in (line["mean"], line["std"]) if part)
                assert found == (number, line["differs"])
            assert bool(found[0]) == bool(wanted)
            others = published.others(dataset=key, resolution=32, protocol=protocol)
            assert not wanted or (method in others) == (method not in ours)
            shown += bool(wanted)
        assert shown > 90
        assert all(line["source"] and line["read_in"] and line["network"] == "ConvNet-3" for line in lines)

    @pytest.mark.parametrize(
        "other",
        [{"network": "resnet18"}, {"network": None}, {"resolution": 64}, {"protocol": "steps"}, {"protocol": ""}],
    )
    def test_a_number_stands_beside_its_own_protocol_network_and_size_alone(self, other):
        """DM's 48.9 at IPC 10 is of a ConvNet-3 on 32 px under DSA's protocol."""
        cell = {
            "dataset": "CIFAR10",
            "resolution": 32,
            "network": "convnet",
            "ipc": 10,
            "method": "dm",
            "protocol": "dsa",
        }
        assert published.find(**cell) == ("48.9 ± 0.6", "")
        assert published.find(**cell | other) == ("", "")

    @pytest.mark.parametrize(
        ("profile", "name"), [("cifar10", "CIFAR-10"), ("fashion-dsa", "Fashion-MNIST"), ("digits", None)]
    )
    def test_profiles_know_which_data_set_they_have(self, profile, name):
        """By the class list of a folder, or by torchvision's name."""
        assert published.SMALL.get(published.dataset(profiles.read(REPOSITORY, profile).data)) == name


@pytest.mark.parametrize(
    ("dataset", "side", "said"),
    [
        (None, 8, "no number for this data set"), ("mine.csv", 256, "no number for this data set"),
        ("imagenette", 64, "has numbers for ImageNette at 256 px, none at 64 px"),
        ("imagewoof", 256, "are of other cells: IPC 10, 20, 50, 70, 100, on ConvNet-6"),
        ("cifar10", 32, "for CIFAR-10 are of a ConvNet-3 under the protocols dc and dsa"),
    ],
)  # fmt: skip
def test_a_missing_number_is_said_of_what_is_missing(dataset, side, said):
    """Of the data set only where the paper has none for it; else of its size, or of the cells."""
    assert said in published.absent(dataset=dataset, resolution=side)
