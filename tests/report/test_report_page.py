"""The page and the Markdown table print the numbers they are given, and need nothing else."""

from __future__ import annotations

import html.parser
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import typer

from ims3core import cli
from ims3core.params.sections import Eval
from ims3core.report import costs, data, layouts, page, published
from ims3core.report.answer import Answer, Point
from ims3core.report.artifacts import CoverageRow
from ims3core.report.pictures import Picture
from ims3core.students.settings import Protocol

PROTOCOL = Protocol(
    labels="hard", temperature=None, epochs=None, steps=400, batch_size=64, optimiser="sgd", lr=0.01, lr_for={},
    momentum=0.9, weight_decay=5e-4, decay_matrices_only=False, schedule="cosine", cutmix=0.5, batchnorm_warmup=False,
    evaluations=20, norm="instance", side=None, test_crop=1.0, augment={},
)  # fmt: skip
ANSWER = Answer(
    "ims3", [Point(1, 50.0, 2.0), Point(10, 85.06, 0.7)], [Point(1, 40.0, 2.0), Point(10, 80.0, 1.0)], 96.0, 8522,
    [("bee", 40.0), ("cat", 70.0), ("ant", 90.0)],
)  # fmt: skip
PICTURE = Picture(b"\x89PNG not really", "png", 1600, 900)


def make_summary(
    values: dict[tuple[str, str], tuple[float, float]], *, student: str = "convnet", protocol: str = "steps"
) -> pd.DataFrame:
    """A summary from (method, ipc) -> (mean, std); the other columns follow from them."""
    rows = [
        (m, k, student, protocol, mean, std, std / 2, std / 4, mean + 1, std) for (m, k), (mean, std) in values.items()
    ]
    columns = ["method", "ipc", "student", "protocol", "mean", "std", "std_sets", "std_seeds", "best_mean", "best_std"]
    return pd.DataFrame(rows, columns=columns)


VALUES = {
    ("random", "10"): (80.0, 1.0),
    ("herding", "10"): (80.4, 0.8),
    ("dit", "10"): (82.04, 0.4),
    ("ims3", "10"): (85.06, 0.6),
    ("full", "full"): (96.0, 0.2),
}
METHODS = ["random", "herding", "dit", "ims3"]


COVERAGE = [
    ("pool", "dit", float("nan"), 0, 0.5, 0.25, 1.0, 0.75, float("nan"), float("nan")),
    ("set", "ims3", 10, 0, 0.9, 0.1, 1.5, 0.625, 0.5, 90.0),
    ("set", "ims3", 10, 1, 0.7, 0.1, 1.5, 0.875, 0.5, 80.0),
]


def compared(methods, **verdicts) -> pd.DataFrame:
    """Differences to Random and DiT, all of 3 points but for DiT's own 0.5."""
    rows = [
        (m, "10", "convnet", "steps", o, 0.5 if m == "dit" else 3.0, 1.5, 3, "undecided" if m == "dit" else "better")
        for m in methods for o in ("random", "dit") if o != m and o in methods
    ]  # fmt: skip
    columns = ["method", "ipc", "student", "protocol", "other", "difference", "half_width", "sets", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def render(values=None, *, methods=None, protocols=("steps",), studies=(), **changes) -> str:
    """The page of a small grid."""
    values, methods, protocols = values or VALUES, methods or METHODS, list(protocols)
    grid = Eval(methods=methods, ipc=[10], students=["convnet"], draws=3, seeds=3, split="test", protocols=protocols)
    entries = {"pool": "im", "source": "generated", "adaptation": "im", "guide": "none", "sampler": "ddpm"}
    sets = [("s3", "10", d, -1.0 - d, -2.0, -3.0 - d, -3.5 - d, "dual", 0.25 * (d + 1), 3.0) for d in (0, 1)]
    columns = ["method", "ipc", "draw", "closeness", "separation", "objective", "bound", "bound_kind", "gap", "sweeps"]
    cell = SimpleNamespace(classes=["ant", "n02206856"])
    arguments = {
        "dataset": "digits", "featured": "ims3", "grid": grid, "protocols": dict.fromkeys(protocols, PROTOCOL),
        "method_rows": [data.MethodRow(method=m, **entries, selection="s3", refined="–") for m in methods],
        "fixed": ["herding"], "results": SimpleNamespace(cells=[cell]), "runs": None, "summary": make_summary(values),
        "selections": pd.DataFrame(sets, columns=columns), "comparisons": compared(methods),
        "coverage": pd.DataFrame(COVERAGE, columns=list(CoverageRow.model_fields)),
        "costs": pd.DataFrame([(m, 30, 1500, 200, 0, 12) for m in methods], columns=costs.COLUMNS),
        "curves": None, "plane": None, "images": {}, "grid_images": 2,
        "names": ["ant", "honey bee"], "absent": "The paper has no number for this data set.",
        "layouts": {
            name: layouts.layout(make_summary(values, protocol=name), grid, protocol=name) for name in protocols
        },
    }  # fmt: skip
    charts = dict.fromkeys(("curve", "accuracy", "selection", "training", "confusion", "tsne"), PICTURE)
    pictures = page.Pictures(charts, {"ims3": PICTURE}, {"ant": {"ims3": PICTURE}})
    return page.html(data.ReportData(**arguments | changes), ANSWER, pictures, studies)


class Rows(html.parser.HTMLParser):
    """Collects table rows as lists of cell texts, and the addresses of everything that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        """Opens a row or a cell."""
        if tag not in ("meta", "img", "source", "link"):
            self.open.append(tag)
        self.loaded += [value for key, value in attributes if key in ("src", "srcset", "href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        """Every element ends in the order it was opened."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Adds text to the open cell."""
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()


class TestPage:
    def test_has_a_table_for_every_protocol_and_says_what_it_is(self):
        """With one protocol no table names it; with two each does."""
        two = pd.concat([make_summary(VALUES), make_summary(VALUES, protocol="soft")])
        text = render(summary=two, protocols=["steps", "soft"])

        assert "Student convnet, protocol steps" in text and "Student convnet, protocol soft" in text
        assert ", protocol steps" not in render()

    def test_loads_nothing(self):
        """Every picture is embedded, that of the best row twice; there is no other address, script or style sheet."""
        text = render()
        parsed = Rows(text)

        assert len(parsed.loaded) == 6 + 3
        assert all(address.startswith("data:image/png;base64,") for address in parsed.loaded)
        assert parsed.open == []
        assert not re.search(r"<script|<link|@import|url\(|https?:", text)

    def test_states_what_the_numbers_were_measured_under(self):
        """Data set, split, protocol, draws and seeds stand at the top."""
        text = render()

        for wanted in ("digits, 2 classes", "test split", "400 steps, batch 64", "3 drawn sets × 3 student seeds"):
            assert wanted in text

    def test_details_hold_differences_spreads_and_best_epoch(self):
        """A row holds score, difference to Random and DiT, both spreads and the best epoch."""
        rows = Rows(render()).rows

        assert ["IMS3", "85.1 ± 0.6", "+3.0 ± 1.5better", "+3.0 ± 1.5better", "0.30", "0.15", "86.1 ± 0.6"] in rows
        assert ["DiT", "82.0 ± 0.4", "+0.5 ± 1.5undecided", "–", "0.20", "0.10", "83.0 ± 0.4"] in rows
        assert [
            "Herding",
            "80.4 ± 0.8",
            "+3.0 ± 1.5better",
            "+3.0 ± 1.5better",
            "one fixed set",
            "0.20",
            "81.4 ± 0.8",
        ] in rows
        assert ["Full data", "96.0 ± 0.2", "–", "–", "–", "0.05", "97.0 ± 0.2"] in rows

    def test_best_epoch_is_labelled(self):
        """The column says that it is not the score."""
        assert "best epoch on the test split (not the score)" in Rows(render()).rows[6 + 3]

    def test_marks_differences_that_are_decided(self):
        """An interval without 0 is bold, one with it faint; both say their verdict."""
        text = render()

        assert '<td class="faint">+0.5 ± 1.5<small class="verdict">undecided</small></td>' in text
        assert '<td class="beyond">+3.0 ± 1.5<small class="verdict">better</small></td>' in text

    def test_coverage_is_a_mean_over_draws(self):
        """One line per pool, and per set and IPC; what a pool has not is a dash."""
        rows = Rows(render()).rows
        assert ["pooldit", "–", "0.500", "0.250", "1.000", "0.750", "–", "–"] in rows
        assert ["IMS3", "10", "0.800", "0.100", "1.500", "0.750", "0.500", "85.0"] in rows

    @pytest.mark.parametrize(
        ("precision", "coverage", "said"),
        [(0.9, 0.3, ""), (0.3, 0.3, "where no real ones are"), (0.91, 0.1, "lies in few places"), (0.46, 0.21, "")],
    )
    def test_a_pool_that_is_noise_is_said_so(self, precision, coverage, said):
        """Less than half of the precision, or of the coverage, of held-out real images; a high precision alone is none."""
        lines = [
            ("pool", "dit", float("nan"), 0, precision, 0.25, 1.0, coverage, float("nan"), float("nan")),
            ("set", "ims3", 10, 0, 0.1, 0.1, 0.1, 0.01, 0.5, 90.0),
            ("real", "validation", float("nan"), 0, 0.9, 0.9, 1.0, 0.4, 0.5, 90.0),
        ]
        rows = Rows(render(coverage=pd.DataFrame(lines, columns=list(CoverageRow.model_fields)))).rows
        heads = [row[0] for row in rows[rows.index(next(row for row in rows if row[0] == "images")) + 1 :][:3]]
        assert heads[0] == "real, held out" and heads[2] == "IMS3"
        assert heads[1].startswith("pooldit") and (said in heads[1] if said else heads[1] == "pooldit")

    def test_begins_with_the_answer(self):
        """The sentence and what follows from it stand before the settings and every table; the hardest class first."""
        text = render()
        top = text[text.index("<h1>") : text.index('<p class="lead">')]
        assert "10 images per class reach 85 % where all 8,522 reach 96 %." in top
        assert all(sentence in top for sentence in ANSWER.sentences)
        assert [row[:2] for row in Rows(top).rows] == [["bee", "40 %"], ["cat", "70 %"], ["ant", "90 %"]]
        assert "IPC" not in top

    def test_the_highest_row_is_the_headline(self):
        """Whichever it is, at every IPC: title, tile and the tinted row; what loses to Random is no headline."""
        for winner in METHODS:
            text = render(VALUES | {(winner, "10"): (90.0, 0.5)})
            tile = text[text.index('class="tile"') :][:400]

            assert f"<h1>{published.label(winner)} on digits</h1>" in text
            assert f"{published.label(winner)}, 10 images per class" in tile and "90.0" in tile
            assert "the highest mean of 4 rows" in tile and f"to {published.label(winner)}" not in tile
            assert f'class="featured"><th>{published.label(winner)}</th>' in text

    def test_every_row_says_where_its_sets_are_and_how_to_take_one(self):
        """The folder of its first set at the largest IPC, and a command that the command line knows."""
        text, command = render(), typer.main.get_command(cli.app)
        for method in METHODS:
            line = f"ims3 export set {method} 10 {method}-10"
            assert f"<code>data/distilled/{method}/ipc-10/draw-0</code>" in text
            assert f"<code>{line}</code>" in text
            name, sub, *arguments = line.split()[1:]
            assert command.commands[name].commands[sub].make_context(sub, arguments).params["ipc"] == 10

    def test_costs_stand_beside_accuracies(self):
        """Network calls, steps and real images of every row."""
        assert ["DiT", "30", "1,500", "200", "0", "12"] in Rows(render()).rows

    def test_selection_shows_means_and_the_worst_gap(self):
        """Terms are means over the sets; the gap and the sweeps are the largest."""
        wanted = ["S3", "10", "2", "−1.500", "−2.000", "−3.500", "−4.000", "dual", "0.5", "3"]

        assert wanted in Rows(render()).rows

    def test_paper_is_set_apart(self):
        """The paper's table is collapsed and says that it is not comparable."""
        text = render()

        assert ["IMS3", "35.6 ± 1.8", "41.8 ± 0.3", "41.3 ± 1.1"] in Rows(text).rows
        assert ["D3HR", "–", "40.7 ± 1.0", "39.6 ± 1.0"] in Rows(text).rows
        assert Rows(text).rows[-1][0] == "Full"
        assert "for orientation, different data set and protocol" in text[text.index("<details>") :]

    def test_a_single_run_has_no_spread(self):
        """Without a standard deviation the page prints the mean alone and never "nan"."""
        text = render({key: (mean, float("nan")) for key, (mean, _) in VALUES.items()})

        assert "nan" not in re.sub(r"base64,[^\"]*", "", text)
        assert ["IMS3", "85.1", "+3.0 ± 1.5better", "+3.0 ± 1.5better", "–", "–", "86.1"] in Rows(text).rows

    def test_without_random_and_dit_there_is_nothing_to_compare_with(self):
        """A grid of one row has no differences."""
        kept = {key: value for key, value in VALUES.items() if key[0] in ("ims3", "full")}

        assert ["IMS3", "85.1 ± 0.6", "–", "–", "0.30", "0.15", "86.1 ± 0.6"] in Rows(
            render(kept, methods=["ims3"])
        ).rows

    def test_studies_say_what_they_found(self):
        """A study stands with its claim, its sentences and its picture; without one there is no section."""
        part = page.StudyPart("lambda_im", "a<b", ["higher by 1"], [PICTURE])
        text = render(studies=[part])
        assert "<h2>Studies</h2>" in text and "a&lt;b" in text and "<li>higher by 1</li>" in text
        assert 'alt="Study lambda_im"' in text and "<h2>Studies</h2>" not in render()

    def test_a_class_stands_with_its_folder_where_that_is_another_name(self):
        """A WordNet id is behind what people call it."""
        text = render()
        assert '<li>honey bee <code class="faint">n02206856</code></li>' in text and "<li>ant</li>" in text

    def test_text_is_escaped(self):
        """A name cannot become markup."""
        assert "a&lt;b" in render(dataset="a<b")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25, "+1.2"), (-0.36, "−0.4"), (0.04, "0.0"), (-0.04, "0.0")],
    ids=["gain", "loss", "small gain", "small loss"],
)
def test_a_difference_has_no_sign_at_zero(value, text):
    """What rounds to zero is neither a gain nor a loss."""
    assert page.with_sign(value) == text


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, "hard labels, 400 steps,"),
        ({"epochs": "minimax", "steps": None, "cutmix": 0.0}, "hard labels, minimax epochs,"),
    ],
    ids=["steps", "epochs"],
)
def test_protocol_text_names_the_length(changes, start):
    """A protocol is given in steps or in epochs, with or without CutMix."""
    text = page.protocol_text(PROTOCOL.model_copy(update=changes))

    assert text.startswith(start)
    assert ("no CutMix" in text) == bool(changes)
