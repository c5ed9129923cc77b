"""Figures are the same bytes every time, whatever the user's settings, and show what they are given."""

from __future__ import annotations

import io
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from ims3core.report import figures, published


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels, for speed."""
    monkeypatch.setattr(figures, "DPI", 60)


def pixels(png: bytes) -> np.ndarray:
    """The RGB picture in ``png``."""
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image.convert("RGB"))


def grid_frames(
    *, ipcs: tuple[int, ...], students: tuple[str, ...] = ("convnet",)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two runs per cell and their summary, with a full-data row per student."""
    keys = [(m, str(k), s) for s in students for m in ("random", "dit") for k in ipcs]
    keys += [("full", "full", s) for s in students]
    rows = [(*key, 50.0 + place + run) for place, key in enumerate(keys) for run in (0, 1)]
    runs = pd.DataFrame(rows, columns=["method", "ipc", "student", "last_top1"]).assign(protocol="steps")
    grouped = runs.groupby(["method", "ipc", "student", "protocol"], sort=False)["last_top1"]
    return runs, pd.DataFrame({"mean": grouped.mean(), "std": grouped.std()}).reset_index()


def draw_accuracy(**changes) -> bytes:
    """The accuracy figure of a small grid."""
    return figures.accuracy(*grid_frames(**{"ipcs": (1, 10)} | changes))


class TestBytes:
    def test_do_not_depend_on_the_users_settings(self):
        """A matplotlibrc of the user's own changes nothing, and is left as it was."""
        plain = draw_accuracy()

        with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
            styled = draw_accuracy()
            kept = matplotlib.rcParams["font.size"]

        assert styled == plain
        assert kept == 30

    def test_carry_no_date_and_no_version(self):
        """The PNG holds no text chunk."""
        with Image.open(io.BytesIO(draw_accuracy())) as image:
            image.load()
            assert set(image.info) == {"dpi"}

    def test_background_is_white(self):
        """The page blends white with its own colour, light or dark."""
        assert tuple(pixels(draw_accuracy())[0, 0]) == (255, 255, 255)


class TestAccuracy:
    def test_has_a_row_of_panels_per_student(self):
        """A second student doubles the height."""
        one, two = (pixels(draw_accuracy(students=s)) for s in (("convnet",), ("convnet", "resnet18")))

        assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=1)

    def test_becomes_lines_where_there_are_many_ipcs(self):
        """Four IPCs make one panel per student: the height no longer follows students or methods."""
        one, two = (pixels(draw_accuracy(ipcs=(1, 10, 20, 50), students=s)) for s in (("convnet",), ("convnet", "b")))

        assert one.shape == two.shape
        assert (one != two).any()

    def test_single_runs_have_no_spread(self):
        """One run per cell is drawn without a warning about its standard deviation."""
        runs, summary = grid_frames(ipcs=(1, 10))
        single = runs.groupby(["method", "ipc", "student"], sort=False).head(1)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert figures.accuracy(single, summary)


def test_selection_leaves_out_what_was_not_reported():
    """Rows without terms stay empty: adding such a method changes the height, not the need for values."""
    rows = [("s3", "1", d, -1.0 * d, -2.0) for d in range(3)] + [("herding", "1", 0, np.nan, np.nan)]
    frame = pd.DataFrame(rows, columns=["method", "ipc", "draw", "closeness", "separation"])

    both, one = (pixels(figures.selection(f)) for f in (frame, frame[:3]))

    assert both.shape[0] > one.shape[0]


def test_selection_without_any_row_that_measures_features_is_a_sentence():
    none = pd.DataFrame([], columns=["method", "ipc", "draw", "closeness", "separation"])

    assert pixels(figures.selection(none)).std() > 0


class TestTraining:
    def curves(self, *, scale: float) -> pd.DataFrame:
        """Five series of ten steps falling from ``scale`` to 1."""
        value = np.geomspace(scale, 1, 10)
        parts = [
            pd.DataFrame({"training": "im", "step": range(10), "series": f"s{k}", "value": value}) for k in range(5)
        ]
        return pd.concat(parts)

    def test_fills_lines_of_four_panels(self):
        """Five series need a second line, four do not."""
        five = self.curves(scale=2)
        four = five[five["series"] != "s4"]

        heights = [pixels(figures.training(curves)).shape[0] for curves in (four, five)]

        assert heights[0] < heights[1]

    def test_draws_wide_ranges_on_a_logarithmic_axis(self):
        """A geometric fall over a factor of 1000 is a straight line, one over 2 is not; the pictures differ."""
        near, far = (pixels(figures.training(self.curves(scale=s))) for s in (2, 1000))

        assert near.shape == far.shape
        assert (near != far).any()

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.integers(1, 25))
    def test_running_mean_looks_back(self, values, window):
        """Each value is the mean of itself and at most ``window`` - 1 before it."""
        found = figures._running_mean(np.array(values), window=window)

        wanted = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
        assert found == pytest.approx(wanted, abs=1e-9)


class TestSamples:
    def test_montage_places_every_image(self):
        """Image (class, n) lies at its row and column, the background between them."""
        stack = np.random.default_rng(0).integers(0, 255, size=(3, 2, 8, 8, 3), dtype=np.uint8)

        picture = figures.montage(stack, background=(255, 255, 255))

        assert picture.shape == (3 * 9 - 1, 2 * 9 - 1, 3)
        for c in range(3):
            for n in range(2):
                assert (picture[9 * c : 9 * c + 8, 9 * n : 9 * n + 8] == stack[c, n]).all()
        assert (picture[8] == 255).all()
        assert (picture[:, 8] == 255).all()

    def test_grey_levels_survive(self):
        """Small images are enlarged without mixing neighbours: no colour appears that was not there."""
        stack = np.zeros((1, 1, 2, 2, 3), np.uint8)
        stack[0, 0, 0, 0] = (10, 200, 30)
        stack[0, 0, 1, 1] = (250, 20, 120)

        colours = {tuple(c) for c in pixels(figures.samples({"dit": stack}, classes=["0"])).reshape(-1, 3)}

        coloured = {tuple(map(int, c)) for c in colours if max(c) - min(c) > 60}
        assert coloured == {(10, 200, 30), (250, 20, 120)}

    def test_methods_wrap_into_further_lines(self):
        """More images than fit across go below; the last line may be short."""
        stack = np.zeros((2, 3, 70, 70, 3), np.uint8)
        three = dict.fromkeys(("a", "b", "c"), stack)

        wide, wrapped = (figures.samples(three, classes=["0", "1"], across=n) for n in (9, 6))

        assert pixels(wrapped).shape[0] > pixels(wide).shape[0]

    def test_shows_at_most_so_many_classes(self):
        """Classes beyond the limit are left out."""
        limit = figures.MAX_CLASSES
        stacks = [np.zeros((n, 1, 4, 4, 3), np.uint8) for n in (limit, limit + 5)]

        first, second = (figures.samples({"dit": s}, classes=[str(i) for i in range(len(s))]) for s in stacks)

        assert first == second


class TestTwentyRows:
    """Every row that the published profiles have."""

    ROWS = [row for row in published.LABELS if row != "full"][:20]

    @pytest.fixture
    def drawn(self, monkeypatch):
        """Figures as they were laid out; a layout that gives up warns, and a warning is an error here."""
        kept, savefig = [], figures.Figure.savefig

        def save(figure, *args, **kwargs):
            kept.append(figure)
            savefig(figure, *args, **kwargs)
            figure.set_layout_engine("none")  # places stay those of the picture

        monkeypatch.setattr(figures.Figure, "savefig", save)
        return kept

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_titles_of_samples_do_not_overlap(self, count, drawn):
        """However few images a row has, its name ends before the next one's begins."""
        stacks = dict.fromkeys(self.ROWS, np.zeros((3, count, 8, 8, 3), np.uint8))
        figures.samples(stacks, classes=["tench", "English springer", "cassette player"])

        renderer = FigureCanvasAgg(drawn[0]).get_renderer()
        titles = [part for axes in drawn[0].axes for part in axes.get_children() if isinstance(part, Text)]
        boxes = [title.get_window_extent(renderer) for title in titles if title.get_text()]
        assert len(boxes) == len(self.ROWS) == 20
        assert not [(one, other) for n, one in enumerate(boxes) for other in boxes[:n] if one.overlaps(other)]
        assert max(box.x1 for box in boxes) <= drawn[0].bbox.width

    @pytest.mark.parametrize("students", [1, 6])
    def test_lines_over_ipc_can_be_told_apart(self, students, drawn):
        """No two rows of a panel have colour and dash in common, panels have room, the legend hides none of them."""
        names = [f"student {n}" for n in range(students)]
        keys = [(m, k, s) for s in names for m in self.ROWS for k in ("1", "10", "20", "50")]
        keys += [("full", "full", s) for s in names]
        summary = pd.DataFrame(keys, columns=["method", "ipc", "student"]).assign(mean=50.0, std=1.0, protocol="steps")
        figures.accuracy(summary, summary)

        figure, renderer = drawn[0], FigureCanvasAgg(drawn[0]).get_renderer()
        panels = [axes for axes in figure.axes if axes.get_visible()]
        assert len(panels) == students
        for axes in panels:
            forms = {(bars[0].get_color(), bars[0].get_linestyle()) for bars in axes.containers}
            assert len(forms) == len(self.ROWS)
            assert axes.get_window_extent(renderer).width > figure.dpi
            assert not axes.get_window_extent(renderer).overlaps(figure.legends[0].get_window_extent(renderer))


@pytest.mark.parametrize("classes", [3, 25], ids=["few", "many"])
def test_confusion_fades_with_the_share(classes):
    """A perfect student paints the diagonal in the accent colour, a blind one paints nothing that strong."""
    names = [f"class{i}" for i in range(classes)]
    accent = tuple(int(figures.ACCENT[i : i + 2], 16) for i in (1, 3, 5))

    perfect, blind = (
        pixels(figures.confusion(counts, classes=names))[:, :300]  # without the colour bar
        for counts in (np.eye(classes, dtype=int).tolist(), np.ones((classes, classes), int).tolist())
    )

    painted = [(abs(picture.astype(int) - accent).max(axis=2) < 3).mean() for picture in (perfect, blind)]
    assert painted[0] > 0.01
    assert painted[1] == 0


@pytest.mark.parametrize("classes", [3, 12, 30], ids=["own colours", "ramp", "unlabelled"])
def test_tsne_has_a_panel_per_method(classes):
    """One panel per group that is not the real one, for any number of classes."""
    rng = np.random.default_rng(0)
    index = np.arange(4 * classes) % classes
    kinds = np.repeat(["real", "real", "dit", "ims3"], classes)
    frame = pd.DataFrame(
        {"kind": kinds, "class": index.astype(str), "x": rng.normal(size=len(index)), "y": index * 1.0}
    )

    both, one = (pixels(figures.tsne(f)) for f in (frame, frame[frame["kind"] != "ims3"]))

    assert both.shape == one.shape
    assert (both != one).any()
