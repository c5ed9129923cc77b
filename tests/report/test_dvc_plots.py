"""The tables in DVC's own views: every series is drawn apart."""

from pathlib import Path

import pandas
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLOTS = {name: facts for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] if isinstance(plot, dict)
         for name, facts in plot.items()}  # fmt: skip
SERIES = ["method", "ipc", "student", "protocol", "rev"]


@pytest.mark.parametrize("name", ["Accuracy", "Student training"])
def test_every_series_has_its_own_line(name):
    """Colours and dashes that differ, or another panel, for any two methods, sizes, students, protocols, revisions."""
    dvc_render = pytest.importorskip("dvc_render.vega")
    facts = PLOTS[name]
    ((table, y),) = facts["y"].items()
    rows = pandas.read_csv(ROOT / table, dtype=str).assign(rev="workspace")
    more = rows.assign(student="resnet18"), rows.assign(protocol="soft"), rows.assign(rev="main")
    rows = pandas.concat([rows, *more])
    properties = {"template": facts["template"], "template_dir": str(ROOT / ".dvc/plots"), "x": facts["x"], "y": y}
    drawing = dvc_render.VegaRenderer(rows.to_dict("records"), name, **properties).get_filled_template()
    (panel,) = drawing["transform"]
    encoding = drawing["encoding"]
    assert encoding.pop("facet")["field"] == panel["as"]
    columns = [column for column in SERIES if f"datum.{column}" in panel["calculate"]]
    columns += [encoding[channel]["field"] for channel in ("color", "strokeDash") if channel in encoding]
    points = [*columns, facts["x"]]
    assert len(rows[points].drop_duplicates()) == len(rows)
    colours = encoding["color"]["scale"]["range"]
    assert len(set(colours)) == len(colours) == 20
    assert rows.method.nunique() <= len(colours)
    assert drawing["data"]["values"][0][y] == rows.iloc[0][y]


def test_every_plot_names_a_template_that_is_there():
    """One of DVC's, or a file in .dvc/plots."""
    templates = pytest.importorskip("dvc_render.vega_templates")
    for facts in PLOTS.values():
        assert templates.get_template(facts["template"], str(ROOT / ".dvc/plots")).content
