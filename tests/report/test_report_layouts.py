"""The tables in the paper's shape, in every format, with the paper's numbers beside ours."""

import pandas as pd
import pytest

from ims3core.params.sections import Eval
from ims3core.pipeline import profiles
from ims3core.report import data, layouts, published
from tests.conftest import REPOSITORY


def summary(protocol="steps", shift=0.0, students=("convnet",)):
    """Two methods and full data at two IPCs."""
    values = {
        ("random", "1"): 50.0,
        ("random", "10"): 80.0,
        ("ims3", "1"): 60.0,
        ("ims3", "10"): 79.0,
        ("full", "full"): 97.0,
    }
    rows = [(m, k, s, protocol, v + shift, 1.0) for s in students for (m, k), v in values.items()]
    return pd.DataFrame(rows, columns=["method", "ipc", "student", "protocol", "mean", "std"])


def grid(**changes):
    """The rows and columns of a table."""
    axes = {"methods": ["random", "ims3"], "ipc": [1, 10], "students": ["convnet"], "protocols": ["steps"]}
    return Eval(**{"draws": 1, "seeds": 1, "split": "test"} | axes | changes)


def table(numbers=None, *, protocol="steps", published=lambda student, ipc, method: ("", ""), others=(), **changes):
    """The table of two methods at two IPCs."""
    frame = summary() if numbers is None else numbers
    return layouts.layout(frame, grid(**changes), protocol=protocol, published=published, others=others)


def test_markdown_bolds_the_best_of_a_column_and_repeats_full_data():
    """Methods in order; the upper bound last and never bold."""
    assert layouts.markdown(table()) == (
        "| method | IPC 1 | IPC 10 |\n| :-- | --: | --: |\n"
        "| Random | 50.0 ± 1.0 | **80.0 ± 1.0** |\n| IMS3 | **60.0 ± 1.0** | 79.0 ± 1.0 |\n"
        "| Full data | 97.0 ± 1.0 | 97.0 ± 1.0 |"
    )


def test_students_are_named_where_there_are_several():
    """A column for each student and IPC."""
    students = ["convnet", "resnet18"]
    two = table(summary(students=students), methods=["ims3"], ipc=[10], students=students)
    assert two.heads == ["convnet, IPC 10", "resnet18, IPC 10"]


def test_published_numbers_stand_in_brackets_with_their_footnote():
    """In Markdown and LaTeX; where the paper has none there is no bracket."""
    found = table(
        published=lambda student, ipc, method: ("41.8 ± 0.3", "odd") if (method, ipc) == ("ims3", 10) else ("", "")
    )
    assert "| IMS3 | **60.0 ± 1.0** | 79.0 ± 1.0 (41.8 ± 0.3) [1] |" in layouts.markdown(found)
    assert layouts.markdown(found).endswith("[1] odd")
    assert r"79.0 $\pm$ 1.0 (41.8 $\pm$ 0.3) [1]" in layouts.latex(found)
    assert found.compared and not table().compared


def test_a_number_without_a_network_has_a_column_of_its_own():
    """After the students, only for the IPC that have one; no number of ours stands there."""

    def paper(student, ipc, method):
        return ("40.9", "not stated") if (student, ipc, method) == (published.UNSTATED, 10, "ims3") else ("", "")

    found = table(published=paper)
    lines = layouts.markdown(found).split("\n")

    assert found.heads == ["convnet, IPC 1", "convnet, IPC 10", "network not stated, IPC 10"]
    assert lines[2:4] == [
        "| Random | 50.0 ± 1.0 | **80.0 ± 1.0** |  |", "| IMS3 | **60.0 ± 1.0** | 79.0 ± 1.0 | (40.9) [1] |"
    ]  # fmt: skip
    frame = layouts.csv_frame([found])
    assert frame[frame["student"] == published.UNSTATED]["paper"].tolist() == ["", "40.9", ""]
    assert frame[frame["student"] == published.UNSTATED]["mean"].isna().all()


def test_methods_that_we_do_not_have_stand_above_full_data():
    """With what is published alone, where anything is, and in no table of the higher of two."""

    def field(student, ipc, method):
        return ("65.3 ± 0.7", "ZCA") if (student, method, ipc) == ("convnet", "MTT", 10) else ("", "")

    found = table(published=field, others=["DATM", "MTT"])

    assert [method for method, _ in found.rows] == ["random", "ims3", "MTT", "full"]
    assert "| MTT |  | (65.3 ± 0.7) [1] |" in layouts.markdown(found)
    both = layouts.higher({"dsa": found, "dc": table(summary("dc"), protocol="dc")})
    assert [method for method, _ in both.rows] == ["random", "ims3", "full"]


def test_a_profile_has_the_numbers_of_the_field_under_its_protocol():
    """CIFAR-10 under dsa and dc: DM, DSA and full data beside ours, each where it was published."""
    params = profiles.read(REPOSITORY, "cifar10", {"eval.protocols": ["dsa", "dc"]})
    cells = [(m, str(k)) for m in params.eval.methods for k in params.eval.ipc] + [("full", "full")]
    rows = [(m, k, "convnet", protocol, 50.0, 1.0) for protocol in params.eval.protocols for m, k in cells]
    frame = pd.DataFrame(rows, columns=["method", "ipc", "student", "protocol", "mean", "std"])

    found = {name: dict(table.rows) for name, table in data.accuracy_layouts(params, frame).items()}

    papers = {name: [entry.paper for entry in found["dsa"][name]] for name in ("dm", "DSA", "random", "full")}
    assert papers == {
        "dm": ["26.0 ± 0.8", "48.9 ± 0.6"], "DSA": ["28.8 ± 0.7", "52.1 ± 0.5"], "random": ["", ""],
        "full": ["84.8 ± 0.1"] * 2,
    }  # fmt: skip
    assert [entry.paper for entry in found["dc"]["random"]] == ["14.4 ± 2.0", "26.0 ± 1.2"]
    assert "DSA" not in found["dc"] and "DC" in found["dc"] and list(found["higher"]) == [*params.eval.methods, "full"]


def test_latex_escapes_names_and_has_a_line_for_each_row():
    """Booktabs, one line per method."""
    text = layouts.latex(table(summary().replace("ims3", "my_row"), methods=["my_row"], ipc=[1]))
    assert r"my\_row & \textbf{60.0 $\pm$ 1.0} \\" in text
    assert text.startswith(r"\begin{tabular}{lr}")


def test_the_higher_of_two_is_taken_cell_by_cell():
    """The paper's rule, only where there are two protocols."""
    soft = table(summary("soft", shift=-5), protocol="soft")
    soft.rows[1][1][0] = layouts.Entry(70.0, 1.0, True)
    both = layouts.higher({"steps": table(), "soft": soft})
    assert [[e.mean for e in entries] for _, entries in both.rows] == [[50, 80], [70, 79], [97, 97]]
    assert layouts.higher({"steps": table()}) is None


def test_a_name_cannot_break_the_markdown_table():
    """Pipes, newlines and backslashes of row names are escaped."""
    assert layouts.escaped("a|b\nc\\") == "a\\|b c\\\\"


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        (("imagewoof", 256, "resnetap10", 10, "ims3"), "41.8 ± 0.3"), (("imagewoof", 256, "convnet", 50, "herding"), "40.3 ± 0.7"),
        (("imagewoof", 256, "resnet18", 10, "full"), "89.3 ± 1.2"), (("imagewoof", 256, "resnet101", 50, "sre2l"), "21.2 ± 0.2"),
        (("imagewoof", 256, "timm:efficientnet_b0", 10, "mgd3"), "32.3 ± 0.3"), (("imagewoof", 512, None, 50, "ims3"), "59.6 ± 0.3"),
        (("imagenet1k", 256, "resnet18", 10, "rded"), "42.0 ± 0.1"), (("imagewoof", 256, "resnet18", 3, "ims3"), ""), ((None, 8, "convnet", 10, "ims3"), ""),
    ],
)  # fmt: skip
def test_the_papers_number_of_a_cell_is_found(cell, number):
    """By data set, size, network, IPC and row."""
    names = ("dataset", "resolution", "network", "ipc", "method")
    assert published.find(**dict(zip(names, cell, strict=True)))[0] == number


def test_inconsistent_cells_have_a_footnote():
    """IMS3 at IPC 50 has three values in the paper."""
    found = published.find(dataset="imagewoof", resolution=256, network="resnetap10", ipc=50, method="ims3")
    assert found[0] == "60.1 ± 0.7" and "61.0 in Table 4" in found[1]
    two = published.find(dataset="imagewoof", resolution=256, network="resnet18", ipc=10, method="ims3")
    assert two[0] == "41.3 ± 1.1" and two[1].endswith(" and 45.9 ± 1.3 in Table 6 (soft label, inferred)")
