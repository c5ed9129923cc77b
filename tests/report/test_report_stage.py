"""The report stage: every output, the same bytes each time, and nothing written when an input is bad."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ims3core.data import ClassRow, write_classes
from ims3core.errors import ArtifactError, ParameterError
from ims3core.pipeline import harness
from ims3core.report import data, figures, pictures
from ims3core.studies import figures as studies

OUTPUTS = {
    "metrics/accuracy.csv",
    "metrics/accuracy.json",
    "metrics/comparisons.csv",
    "metrics/cost.csv",
    *(f"metrics/tables/{n}" for n in ("accuracy.csv", "ddranking.csv", "steps.md", "steps.tex")),
    "reports/index.html",
    *(f"metrics/plots/{n}.csv" for n in ("accuracy", "selection", "training", "students", "confusion", "tsne")),
    *(f"metrics/plots/{n}.png" for n in ("accuracy", "selection", "training", "confusion", "samples", "tsne")),
}


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file below ``root``, but for the workspace of the stage, with its bytes."""
    names = [path for path in root.rglob("*") if path.is_file() and "scratch" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in names}


def run(params) -> None:
    """Runs the stage in the current folder."""
    harness.execute(harness.open_stage("report", params, Path(), ()))


def test_forced_rerun_changes_no_byte(tree, make_params, monkeypatch, caplog):
    """A run writes exactly the promised files, says the answer and touches no input; a second one writes the same bytes."""
    monkeypatch.setattr(figures, "DPI", 60)  # for speed
    params, before = make_params(), snapshot(tree)
    caplog.set_level("INFO")

    run(params)
    first = snapshot(tree)
    assert any("4 images per class reach" in record.getMessage() for record in caplog.records)
    run(params)

    assert snapshot(tree) == first
    assert {name: first[name] for name in before} == before
    assert set(first) - set(before) == OUTPUTS


def test_a_study_is_drawn_again_only_when_its_numbers_change(tree, make_params, monkeypatch):
    """Once; what is kept is the picture that a fresh drawing gives."""
    study = (
        "{mine: {claim: c, rows: [ims3], ipc: [1], draws: 2, seeds: 1, split: validation, measures: [accuracy], "
        "vary: {s3.alpha: [0.1, 0.5]}}}"
    )
    params = make_params()
    (tree / "studies.yaml").write_text(study)
    dataset, table = params.data.name or params.data.source, tree / "metrics/studies/mine.csv"
    rows = [
        f"{dataset},{n:016x},{a},ims3,1,{d},0,accuracy,{80 + d}" for n, a in enumerate(("0.1", "0.5")) for d in (0, 1)
    ]
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(["data,key,s3.alpha,row,ipc,draw,seed,metric,value", *rows]) + "\n")
    draw, drawn = studies.draw, []
    monkeypatch.setattr(studies, "draw", lambda study, frame: drawn.append(len(frame)) or draw(study, frame))

    run(params)
    page = (tree / "reports/index.html").read_bytes()
    assert len(drawn) == 1
    run(params)
    assert len(drawn) == 1
    assert (tree / "reports/index.html").read_bytes() == page

    table.write_text(table.read_text().replace(",81\n", ",95\n"))
    run(params)
    assert len(drawn) == 2
    assert (tree / "reports/index.html").read_bytes() != page


class TestTables:
    @pytest.fixture
    def written(self, tree, make_params, monkeypatch):
        """The tree after a run whose figures are not drawn."""
        for name in ("accuracy", "samples", "tsne", "selection", "training", "confusion"):
            monkeypatch.setattr(figures, name, lambda *args, **kwargs: b"")
        monkeypatch.setattr(pictures, "chart", lambda png: png)
        monkeypatch.setattr(pictures, "opened", lambda png: pictures.Picture(png, "png", 1, 1))
        run(make_params())
        return tree

    def test_accuracy_covers_the_grid_and_the_upper_bound(self, written):
        """4 methods x 2 IPCs x 2 students x 4 runs, and 2 seeds of full data per student."""
        found = pd.read_csv(written / "metrics/accuracy.csv", dtype={"ipc": str})

        assert len(found) == 4 * 2 * 2 * 4 + 2 * 2
        assert found.columns.tolist() == [
            "method", "ipc", "student", "protocol", "draw", "seed", "last_top1", "best_top1",
        ]  # fmt: skip
        assert found["ipc"].unique().tolist() == ["1", "4", "full"]

    def test_json_agrees_with_the_table(self, written):
        """What `dvc metrics diff` compares are the means of metrics/accuracy.csv."""
        runs = pd.read_csv(written / "metrics/accuracy.csv", dtype={"ipc": str})
        tree = json.loads((written / "metrics/accuracy.json").read_text())["steps"]

        rows = runs[(runs["method"] == "ims3") & (runs["ipc"] == "4") & (runs["student"] == "timm:resnet18")]
        assert tree["ims3"]["ipc-4"]["timm:resnet18"] == round(rows["last_top1"].mean(), 2)
        assert set(tree) == {"random", "herding", "dit", "ims3", "full"}

    def test_plots_leave_out_the_upper_bound(self, written):
        """The IPC axis of the accuracy plot is a number on every row."""
        assert pd.read_csv(written / "metrics/plots/accuracy.csv")["ipc"].unique().tolist() == [1, 4]

    def test_tsne_shows_real_images_and_the_compared_sets(self, written):
        """Four real images per class; all images of Random, DiT and the featured method at the largest IPC."""
        counts = pd.read_csv(written / "metrics/plots/tsne.csv")["kind"].value_counts().to_dict()

        assert counts == {"real": 12, "random": 12, "dit": 12, "ims3": 12}

    def test_training_covers_every_adaptation_that_trains(self, written):
        """Generator and IM have curves; `none` has none to read."""
        found = pd.read_csv(written / "metrics/plots/training.csv")

        assert found["training"].unique().tolist() == ["generator", "im"]

    def test_markdown_is_the_table_of_the_same_cells(self, written, make_params):
        """The Markdown table prints the means of the JSON."""
        tree = json.loads((written / "metrics/accuracy.json").read_text())["steps"]

        lines = data.markdown(make_params(), written).splitlines()

        assert len(lines) == 2 + 4 + 1
        assert f"{tree['random']['ipc-1']['convnet']:.1f} ± " in lines[2]

    def test_a_smaller_grid_forgets_the_rest(self, written, make_params):
        """Cells that params.yaml no longer names vanish from the results, though their files remain."""
        run(make_params(methods="[dit, ims3]", ipc="[4]", students="[convnet]"))

        found = pd.read_csv(written / "metrics/accuracy.csv")
        assert found[["method", "ipc", "student"]].drop_duplicates().to_numpy().tolist() == [
            ["dit", "4", "convnet"], ["ims3", "4", "convnet"], ["full", "full", "convnet"],
        ]  # fmt: skip
        assert (written / "metrics/cells/random-1-convnet-steps.json").is_file()


@pytest.mark.parametrize(
    "missing",
    [
        "metrics/cells/dit-1-timm:resnet18-steps.json",
        "metrics/full_data/convnet-steps.json",
        "metrics/selection/herding.json",
        "data/generator/curve.csv",
        "data/adapted/im/curve.csv",
        "data/distilled/random/ipc-4/draw-0/manifest.json",
        "data/distilled/dit/ipc-4/draw-0/train/ant/draw0-00001.png",
        "data/features/im/manifest.json",
    ],
)
def test_missing_input_is_named_before_anything_is_written(tree, make_params, missing):
    """Whatever input lacks, the message names it and no output appears."""
    (tree / missing).unlink()
    before = snapshot(tree)

    with pytest.raises(ArtifactError, match=f"^{missing}: no such file; `dvc repro` makes it$"):
        run(make_params())

    assert snapshot(tree) == before


def test_classes_are_called_as_people_call_them(tree, make_params):
    """Up to the first comma, with the folder where two are called so; other classes than the results' are refused."""
    table = [("ant", "emmet, pismire"), ("bee", "crane, bird"), ("cat", "crane, machine")]
    path = tree / "data/real/classes.json"
    write_classes(path, [ClassRow(n, name, n, human) for n, (name, human) in enumerate(table)])

    found = data.read(make_params(), tree)
    assert found.names == ["emmet", "crane (bee)", "crane (cat)"]
    assert found.classes == ["ant", "bee", "cat"]

    write_classes(path, [ClassRow(n, name, n, name) for n, name in enumerate(("ant", "bee", "dog"))])
    with pytest.raises(ArtifactError, match=r"classes\.json.*'dog'.*the results have"):
        data.read(make_params(), tree)


def test_featured_method_must_be_in_the_grid(make_params):
    """A featured method without cells is a mistake in params.yaml, found when it is read."""
    with pytest.raises(ParameterError, match="report.tsne_method: found 's3', wanted one of eval.methods"):
        make_params(tsne_method="s3")


def test_starts_without_the_heavy_packages():
    """Importing the stage loads neither torch nor timm nor diffusers, nor pyplot's global state."""
    heavy = "{'torch', 'timm', 'diffusers', 'matplotlib.pyplot'}"
    code = f"import sys, stages.report; print(*sorted({heavy} & set(sys.modules)))"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.strip()) == (0, "")
