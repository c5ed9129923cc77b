"""Studies: settings, their tables, sentences and figures; the experiments themselves with a stand-in for DVC."""

import contextlib
import json
import math

import pandas as pd
import pytest
import yaml

from ims3core import params
from ims3core.errors import ArtifactError, ParameterError
from ims3core.pipeline import checkouts, profiles
from ims3core.pipeline.places import Place
from ims3core.studies import costs, definitions, experiments, figures, results, sentences
from ims3core.studies.definitions import Study
from ims3core.studies.settings import settings_of
from tests.conftest import REPOSITORY, toy_parameters

PLAIN = {
    "claim": "c", "rows": ["ims3"], "ipc": [1, 2], "draws": 2, "seeds": 2, "split": "validation",
    "measures": ["accuracy"],
}  # fmt: skip


def study_of(**changes):
    return Study.model_validate(PLAIN | changes)


def settings(study, **changes):
    return settings_of("mine", toy_parameters(**changes), study)


class TestSettings:
    def test_every_combination_the_first_key_slowest(self):
        found = settings(study_of(vary={"s3.alpha": [0.1, 0.2], "s3.beta": [1, 2, 3]}))
        assert [tuple(s.labels.values()) for s in found] == [(a, b) for a in ("0.1", "0.2") for b in ("1", "2", "3")]
        assert [s.tree["s3"]["beta"] for s in found] == [1, 2, 3] * 2
        assert len({s.key for s in found}) == 6

    def test_grid_is_the_study_s(self):
        (found,) = settings(study_of())
        grid = found.params.eval
        assert (grid.methods, grid.ipc, grid.draws, grid.seeds, grid.split) == (["ims3"], [1, 2], 2, 2, "validation")

    def test_only_the_rows_it_needs_are_left(self):
        """IMS3 needs the pools real and im; a refined row what it starts from; a guide its adaptation."""
        (found,) = settings(study_of())
        assert set(found.params.pools) == {"real", "im"} and set(found.params.methods) == {"ims3"}
        assert set(found.params.adaptations) == {"none", "im"}
        tree = toy_parameters() | {"distribution_matching": profile()["distribution_matching"]}
        tree["refinements"] = {"dm": {"start": "random", "type": "distribution_matching"}}
        (found,) = settings_of("mine", tree, study_of(rows=["dm"]))
        assert set(found.params.methods) == {"random"} and set(found.params.refinements) == {"dm"}

    def test_every_row_and_section_that_a_row_stands_on_is_left(self):
        """Pools of centroids, guides, starts and the sections of their entries; fixed sections whatever their name."""
        (found,) = settings_of("mine", profile(), study_of(rows=["dm", "d3hr", "ims3_generated"], ipc=[1], draws=1))
        tables = {
            "refinements": {"dm"}, "methods": {"random", "d3hr", "ims3_generated"}, "centroids": {"real", "generated"},
            "pools": {"real", "reference", "im", "d3hr"}, "guides": {"none", "statistics"}, "students": {"convnet"},
        }  # fmt: skip
        assert {table: set(found.tree[table]) for table in tables} == tables
        assert {"adaptations", "diagnostics", "coverage"} <= set(found.tree)
        sections = set(found.tree) - set(params.Params.model_fields)
        assert sections >= {"distribution_matching", "random", "first", "s3", "im", "statistics", "from_statistics"}
        assert not sections & {"modes", "mode_guided", "minimax", "s3_image", "k_center", "crops", "realism", "ddim"}

    def test_what_the_rows_do_not_name_outdates_no_result(self):
        """A row, an entry's section or a protocol that the study does not use may come and go."""
        (plain,) = settings(study_of())
        tree = toy_parameters() | {"distribution_matching": profile()["distribution_matching"]}
        tree["refinements"] = {"dm": {"start": "random", "type": "distribution_matching"}}
        tree["protocols"]["other"] = tree["protocols"][tree["eval"]["protocols"][0]]
        (more,) = settings_of("mine", tree, study_of())
        assert more.key == plain.key
        tree["im"]["lambda_im"] = 0.5
        (other,) = settings_of("mine", tree, study_of())
        assert other.key != plain.key

    def test_named_settings_make_rows_and_sections(self):
        changed = {
            "minimax": {"lambda_representative": 0.1, "lambda_diverse": 0.1, "memory": 2},
            "adaptations.im": {"type": "minimax"},
        }
        plain, other = settings(study_of(settings={"a": {}, "b": changed}))
        assert [s.params.adaptation("im").entry_name() for s in (plain, other)] == ["im", "minimax"]
        assert [s.labels for s in (plain, other)] == [{"setting": "a"}, {"setting": "b"}]

    def test_a_section_that_is_made_may_be_varied_too(self):
        """Every setting has a copy of its own, and the study stays as it was."""
        study = study_of(fixed={"first": {}, "s3": toy_parameters()["s3"]}, vary={"s3.alpha": [0.1, 0.2]})
        assert [found.tree["s3"]["alpha"] for found in settings(study)] == [0.1, 0.2]
        assert study.fixed["s3"] == toy_parameters()["s3"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"vary": {"s3.alhpa": [1]}}, "studies.mine: params.yaml has no key 's3.alhpa'"),
            ({"vary": {"s4.alpha": [1]}}, "no key 's4.alpha'"),
            ({"vary": {"s3.alpha.x": [1]}}, "no key 's3.alpha.x'"),
            ({"fixed": {"nonsense": 1}}, "no key 'nonsense'"),
            ({"vary": {"s3.alpha": [0.1, "much"]}}, "studies.mine, s3.alpha much: s3.alpha: found 'much'"),
            ({"rows": ["nobody"]}, "eval.methods: 'nobody' is unknown"),
            ({"ipc": [1, 50]}, "candidates.per_class: 6 images per class and draw are too few"),
        ],
    )
    def test_what_params_do_not_allow(self, changes, words):
        with pytest.raises(ParameterError, match="studies.mine") as caught:
            settings(study_of(**changes))
        assert words in str(caught.value)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"vary": {"s3.alpha": []}}, "vary"), ({"vary": {"a": [1]}, "settings": {"x": {}}}, "wanted one of them"),
            ({"rows": []}, "rows"), ({"measures": ["speed"]}, "measures"),
        ],
    )  # fmt: skip
    def test_definitions_that_say_nothing(self, changes, words, tmp_path):
        (tmp_path / "studies.yaml").write_text(yaml.safe_dump({"mine": PLAIN | changes}))
        with pytest.raises(ParameterError, match=r"studies\.yaml: mine") as caught:
            definitions.read(tmp_path)
        assert words in str(caught.value)

    def test_key_knows_what_decides_a_result(self):
        """Not the machine, the report or other studies; but every number that a stage reads, and the grid."""
        base = settings(study_of())[0].key
        assert settings(study_of(), compute__threads=7, report__tsne_real=5)[0].key == base
        assert settings(study_of(claim="other words"))[0].key == base
        for changed in ({"s3__alpha": 0.123}, {"seed": 5}, {"compute__precision": "bf16"}, {"generator__lr": 0.5}):
            assert settings(study_of(), **changed)[0].key != base
        assert settings(study_of(draws=3))[0].key != base
        assert settings(study_of(), dpm_solver__steps=3)[0].key != base


def profile():
    return profiles.read(REPOSITORY, "digits-all").tree


def lines(*rows, labels=()):
    columns = [*labels, "row", "ipc", "draw", "seed", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


class TestSentences:
    def test_numbers_are_paired_differences_of_sets(self):
        """Seeds are averaged within a set; the interval is that of the sets' differences."""
        rows = [("dit", "1", d, s, "accuracy", 80 + d + s) for d in range(3) for s in range(2)]
        rows += [("im", "1", d, s, "accuracy", 81 + d + s + 0.1 * d) for d in range(3) for s in range(2)]
        (found,) = sentences.sentences(study_of(), lines(*rows))
        half = 4.302653 * 0.1 / math.sqrt(3)
        assert f"im +1.10 ± {half:.2f} points, higher" in found and found.startswith("accuracy, IPC 1: dit 81.50")

    def test_of_many_settings_the_extremes(self):
        rows = [(str(v), "ims3", "1", d, 0, "accuracy", 90 + v + d) for v in range(7) for d in range(2)]
        (found,) = sentences.sentences(study_of(vary={"s3.alpha": [0]}), lines(*rows, labels=["s3.alpha"]))
        assert (
            "highest and lowest of 6 others: 6 +6.00 points in every set" in found
            and "; 1 +1.00" in found
            and " 3 " not in found
        )

    def test_a_share_of_the_gap_is_told_in_its_own_unit(self):
        """However wide its interval: what is too wide is said in points of accuracy."""
        rows = [
            (name, "ims3", "1", d, 0, "gap", value)
            for name, own in (("a", (40, 60)), ("b", (70, 60)))
            for d, value in enumerate(own)
        ]
        study = study_of(settings={"a": {}, "b": {}})
        (found,) = sentences.sentences(study, lines(*rows, labels=["setting"]))
        assert found.endswith("b +15.00 ± 190.59 % of the gap, not distinguishable.")

    def test_one_set_has_no_interval(self):
        rows = [("a", "x", "", 0, 0, "m", 1.0), ("b", "x", "", 0, 0, "m", 1234.0)]
        (found,) = sentences.sentences(study_of(settings={"a": {}, "b": {}}), lines(*rows, labels=["setting"]))
        assert found == "x, m: a 1.00; b 1,234."


@pytest.mark.parametrize(
    ("varied", "kind"),
    [
        ({"s3.alpha": [0.1, 0.2], "s3.beta": [1, 2]}, "_heat"), ({"im.lambda_im": [0.001, 0.1, 1]}, "_lines"),
        ({"im.similarity": ["l1", "l2", "cosine"]}, "_dots"), ({"s3.groups": [1, 2]}, "_dots"), ({}, "_dots"),
    ],
)  # fmt: skip
def test_figure_of_each_kind(varied, kind, monkeypatch):
    import itertools

    study, labels = study_of(vary=varied), list(varied)
    rows = [
        (*map(str, values), row, ipc, d, 0, "accuracy", 90.0 + d)
        for values in itertools.product(*varied.values())
        for row in ("im", "ims3") for ipc in ("1", "2") for d in range(2)
    ]  # fmt: skip
    called = []
    original = getattr(figures, kind)
    monkeypatch.setattr(figures, kind, lambda *a: called.append(kind) or original(*a))
    png = figures.draw(study, lines(*rows, labels=labels))
    assert called == [kind] and png.startswith(b"\x89PNG") and len(png) > 5000


def cell(row, ipc, runs):
    """The file of a cell whose (draw, seed, top-1) are ``runs``."""
    facts = {"method": row, "ipc": ipc, "student": "convnet", "protocol": "steps", "split": "test", "draws": 2}
    facts |= {"seeds": 2, "precision": "fp32", "classes": ["ant", "bee"], "confusion": [[1, 0], [0, 1]]}
    records = [
        {"draw": draw, "seed": seed, "last_top1": top1, "best_top1": top1, "curve": [[1, 0.5, top1]]}
        for draw, seed, top1 in runs
    ]
    return json.dumps({**facts, "runs": records})


class TestExperiments:
    @pytest.fixture
    def project(self, tmp_path, monkeypatch):
        """A checkout whose DVC writes cells: accuracy 90 plus alpha; it can be told to die."""
        self.ran, self.dies_at, self.changed = [], None, []
        clone = tmp_path / "clone"
        monkeypatch.setattr(checkouts, "prepare_clone", lambda root, name: clone)
        monkeypatch.setattr(checkouts, "forget_experiment", lambda folder, name: None)
        monkeypatch.setattr(checkouts, "uncommitted", lambda root, places: self.changed)

        def dvc(folder, *arguments):
            tree = yaml.safe_load((folder / "params.yaml").read_text())
            if len(self.ran) == self.dies_at:
                raise KeyboardInterrupt
            self.ran.append((tree["s3"]["alpha"], arguments))
            for row in tree["eval"]["methods"]:
                for ipc in tree["eval"]["ipc"]:
                    place = folder / f"metrics/cells/{row}-{ipc}-convnet-steps.json"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    value = 90 + tree["s3"]["alpha"]
                    place.write_text(cell(row, ipc, [(d, s, value) for d in (0, 1) for s in (0, 1)]))
            whole = folder / "metrics/full_data/convnet-steps.json"
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text(cell("full", "full", [(0, seed, 92.0 + seed) for seed in (0, 1)]))

        monkeypatch.setattr(checkouts, "dvc", dvc)
        return tmp_path

    def run(self, project, study, **changes):
        return experiments.run(project, "mine", toy_parameters(**changes), study)

    def test_once_and_never_again(self, project):
        study = study_of(vary={"s3.alpha": [0.1, 0.2, 0.3]})
        frame, ran = self.run(project, study)
        assert ran == 3 and len(frame) == 3 * 2 * 2 * 2
        assert frame.groupby("s3.alpha")["value"].mean().to_dict() == pytest.approx(
            {"0.1": 90.1, "0.2": 90.2, "0.3": 90.3}
        )
        written = (project / "metrics/studies/mine.csv").read_bytes()
        again, ran = self.run(project, study)
        assert ran == 0 and len(self.ran) == 3 and (project / "metrics/studies/mine.csv").read_bytes() == written
        pd.testing.assert_frame_equal(again.astype(str), frame.astype(str))

    def test_dvc_runs_an_experiment_as_far_as_is_measured(self, project):
        self.run(project, study_of(vary={"s3.alpha": [0.1]}))
        ((_, arguments),) = self.ran
        assert arguments[:2] == ("exp", "run") and arguments[-1] == "students" and "--name" in arguments
        assert "--force" not in arguments  # it runs every stage again

    def test_settings_share_the_workers(self, project, monkeypatch):
        """They are started once; each setting is made by them before DVC records it as an experiment."""
        opened, made = [], []

        @contextlib.contextmanager
        def shared(params, place):
            opened.append(place)
            yield Place(scheduler="tcp://there:1")

        monkeypatch.setattr(experiments.repro, "shared", shared)
        monkeypatch.setattr(checkouts, "reproduce", lambda clone, *asked: made.append((len(self.ran), *asked)))
        study = study_of(vary={"s3.alpha": [0.1, 0.2]})
        frame, ran = experiments.run(project, "mine", toy_parameters(), study, Place(workers=2))
        assert ran == 2 and opened == [Place(workers=2)]
        assert made == [(number, Place(scheduler="tcp://there:1"), "students") for number in (0, 1)]

    def test_killed_in_the_middle_only_the_rest_runs(self, project):
        study, self.dies_at = study_of(vary={"s3.alpha": [0.1, 0.2, 0.3]}), 2
        with pytest.raises(KeyboardInterrupt):
            self.run(project, study)
        self.dies_at = None
        frame, ran = self.run(project, study)
        assert ran == 1 and [alpha for alpha, _ in self.ran] == [0.1, 0.2, 0.3] and frame["s3.alpha"].nunique() == 3

    def test_every_root_seed_gives_sets_of_its_own(self, project):
        """Splits and generator follow the seed; its sets are counted on, so that intervals are over all of them."""
        study = study_of(root_seeds=[0, 7], rows=["dit", "ims3"])
        frame, ran = self.run(project, study)
        assert ran == 2 and sorted(set(frame["draw"])) == [0, 1, 2, 3] and frame["key"].nunique() == 2
        assert [found.params.seed for found in settings(study)] == [0, 7]
        assert len(sentences.values(frame[frame["ipc"] == "1"], ["row"])["ims3",].sets) == 4
        assert self.run(project, study)[1] == 0
        assert self.run(project, study_of(root_seeds=[0, 7, 9], rows=["dit", "ims3"]))[1] == 1

    def test_the_gap_to_full_data_is_that_of_each_set(self, project, monkeypatch):
        """(set - DiT) / (full data - DiT); DiT is the mean over its students, full data over its seeds."""
        accuracy = [
            ("dit", 1, 0, 0, "accuracy", 80), ("dit", 1, 0, 1, "accuracy", 84), ("dit", 1, 1, 0, "accuracy", 85),
            ("dit", 1, 1, 1, "accuracy", 81), ("ims3", 1, 0, 0, "accuracy", 87), ("ims3", 1, 0, 1, "accuracy", 88),
            ("ims3", 1, 1, 0, "accuracy", 82.5), ("ims3", 1, 1, 1, "accuracy", 82.5),
        ]  # fmt: skip
        monkeypatch.setattr(results, "_accuracy", lambda clone, setting: accuracy)
        study = study_of(rows=["dit", "ims3"], ipc=[1], measures=["gap"], seeds=2)
        frame, _ = self.run(project, study)
        assert self.ran[0][1][-2:] == ("students", "full_data")
        gap = frame[frame["metric"] == "gap"]
        assert gap[["row", "draw", "value"]].values.tolist() == [["ims3", 0, 50.0], ["ims3", 1, 0.0]]
        full = frame[frame["metric"] == "full_data"]
        assert full[["draw", "seed", "value"]].values.tolist() == [[0, 0, 92], [0, 1, 93]]
        with pytest.raises(ValueError, match="rows: found no dit"):
            study_of(rows=["ims3"], measures=["gap"])

    def test_another_measure_runs_the_setting_again(self, project):
        """A table without a measure that is asked for is not the study."""
        rows = {"rows": ["dit", "ims3"], "draws": 2, "seeds": 2}
        assert self.run(project, study_of(**rows))[1] == 1
        frame, ran = self.run(project, study_of(**rows, measures=["gap", "accuracy"]))
        assert ran == 1 and {"gap", "accuracy", "full_data"} == set(frame["metric"])
        assert self.run(project, study_of(**rows, measures=["accuracy", "gap"]))[1] == 0

    def test_one_more_value_runs_alone_and_a_changed_one_replaces(self, project):
        self.run(project, study_of(vary={"s3.alpha": [0.1, 0.2]}))
        frame, ran = self.run(project, study_of(vary={"s3.alpha": [0.3, 0.2, 0.1]}))
        assert ran == 1 and list(dict.fromkeys(frame["s3.alpha"])) == ["0.3", "0.2", "0.1"]
        frame, ran = self.run(project, study_of(vary={"s3.alpha": [0.1]}), s3__beta=0.1)
        assert ran == 1 and frame["s3.alpha"].unique().tolist() == ["0.1"]

    def test_a_plane_is_made_with_the_experiment_and_again_where_it_is_missing(self, project, monkeypatch):
        """The table alone is not the study; a known plane runs nothing."""
        made = pd.DataFrame({"kind": ["real", "ims3"], "class": ["NA", "b"], "x": [0.1234, 1], "y": [2, 3.0]})
        monkeypatch.setattr("ims3core.report.artifacts.open_set", lambda root, key: (key.method, key.ipc))
        monkeypatch.setattr("ims3core.data.read_classes", lambda path: [])
        asked = []
        monkeypatch.setattr(
            "ims3core.report.planes.plane",
            lambda params, root, sets, classes: asked.append(sets) or made,
        )
        study = study_of(measures=["accuracy", "plane"])
        assert self.run(project, study)[1] == 1 and asked == [{"ims3": ("ims3", 2)}]
        found = results.read_plane(project, "mine")
        assert found.drop(columns="key").values.tolist() == [["real", "NA", 0.123, 2], ["ims3", "b", 1, 3]]
        assert self.run(project, study)[1] == 0
        results.path_of(project, "mine-plane").unlink()
        assert self.run(project, study)[1] == 1 and len(asked) == 2
        plane = results.path_of(project, "mine-plane")
        plane.write_text(plane.read_text().replace(found["key"][0], "feedfeedfeedfeed"))
        assert self.run(project, study)[1] == 1 and len(asked) == 3
        assert [arguments[-2:] for _, arguments in self.ran] == [("students", "coverage")] * 3

    def test_a_plane_is_of_one_setting(self):
        with pytest.raises(ValueError, match="measures: found plane"):
            study_of(measures=["plane"], vary={"s3.alpha": [0.1]})

    def test_uncommitted_code_is_refused_before_anything_runs(self, project):
        self.changed = ["ims3core/a.py", "stages/b.py"]
        with pytest.raises(ParameterError, match=r"ims3core/a.py and 1 more: not in the last commit"):
            self.run(project, study_of(vary={"s3.alpha": [0.1]}))
        assert not self.ran and not (project / "metrics").exists()

    def test_nothing_runs_where_one_setting_is_wrong(self, project):
        with pytest.raises(ParameterError, match=r"s3\.alpha -1"):
            self.run(project, study_of(vary={"s3.alpha": [0.1, -1]}))
        assert not self.ran and not (project / "metrics").exists()


class TestResults:
    def test_a_broken_table_is_named(self, tmp_path):
        path = results.path_of(tmp_path, "mine")
        path.parent.mkdir(parents=True)
        path.write_bytes(b'data,key\n"unclosed')
        with pytest.raises(ArtifactError, match="mine.csv: not a table of a study"):
            results.read(tmp_path, "mine", [])

    def test_columns_of_an_earlier_definition_do_not_count(self, tmp_path):
        frame = pd.DataFrame(
            [["digits", "0123456789abcdef", "1", "x", "1", 0, 0, "m", 1.0]],
            columns=[*results.FACTS, "a", *results.VALUES],
        )
        results.write(tmp_path, "mine", frame)
        assert len(results.read(tmp_path, "mine", ["a"])) == 1 and results.read(tmp_path, "mine", ["b"]).empty

    def test_coverage_of_sets_and_pools(self, tmp_path):
        from types import SimpleNamespace

        (tmp_path / "metrics").mkdir()
        (tmp_path / "metrics/coverage.csv").write_text(
            "kind,name,ipc,draw,precision,recall,density,coverage,boundary,recognised\n"
            "pool,im,,0,0.5,0.25,1.5,0.75,,\nset,ims3,10,1,0.5,0.25,1.5,0.75,2.5,99.0\n"
        )
        found = results._coverage(tmp_path, SimpleNamespace())
        assert ("im", "", 0, 0, "recall", 25.0) in found and ("ims3", "10", 1, 0, "boundary", 2.5) in found
        assert len(found) == 4 + 6


def test_the_shipped_studies_are_settings_that_params_allow():
    tree = profiles.read(REPOSITORY, "digits").tree
    studies = definitions.read(REPOSITORY)
    counts = {name: len(settings_of(name, tree, study)) for name, study in studies.items()}
    assert counts["alpha_beta"] == 25 and counts["forms"] == 9 and len(counts) == 18


@pytest.mark.parametrize(
    ("key", "value", "first"),
    [
        ("data.side", 16, "prepare"), ("generator.lr", 0.5, "generator"), ("encoder.steps", 5, "encoder"),
        ("im.lambda_im", 0.5, "finetune@im"), ("dpm_solver.steps", 5, "candidates@im"),
        ("crops.scale", [0.1, 1], "candidates@crops"), ("candidates.per_class", 60, "candidates@real"),
        ("s3.alpha", 0.5, "select@ims3"), ("distribution_matching.lr", 0.5, "refine@dm"),
    ],
)  # fmt: skip
def test_what_a_setting_outdates_is_planned_for_it(key, value, first, tmp_path, monkeypatch):
    """The first stage that names the key and those after it, whatever other studies of the same process vary."""
    from ims3core.planning import rates

    monkeypatch.setattr(rates, "machine_rates", lambda *facts: rates.assumed_rates(1e-3))
    tree, planned = profile(), []
    monkeypatch.setattr(rates, "seconds", lambda row, known: planned.append(row.stage) or 1.0)
    for rows in (["noise"], ["dm", "ims3", "rded"]):
        planned.clear()
        study = study_of(rows=rows, vary={key: [value]})
        costs.seconds(tmp_path, params.checked(tree), study, settings_of("mine", tree, study))
    assert planned[0] == first and any(stage.startswith("students") for stage in planned)
    assert key != "encoder.steps" or not {"latents", "finetune@im", "candidates@im"} & set(planned)
    assert key != "s3.alpha" or not {"finetune@im", "candidates@im", "refine@dm"} & set(planned)


def test_another_root_seed_is_planned_as_all_of_the_graph(tmp_path, monkeypatch):
    """Splits, generator and pools are made anew, a second set of students is not all that it takes."""
    from ims3core.planning import rates

    monkeypatch.setattr(rates, "machine_rates", lambda *facts: rates.assumed_rates(1e-3))
    tree, taken = toy_parameters(), []
    for roots in (None, [0], [0, 1]):
        study = study_of(root_seeds=roots)
        taken.append(costs.seconds(tmp_path, params.checked(tree), study, settings_of("mine", tree, study)))
    assert taken[0] == taken[1] and taken[2] > taken[0] + 5 * costs.START_UP
