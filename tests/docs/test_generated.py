"""What the documentation takes from code and results is what code and results say."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from ims3core.params import entries
from ims3core.pipeline.graph import overlap
from ims3core.studies import definitions

REPOSITORY = Path(__file__).resolve().parents[2]


def test_nothing_is_out_of_date(generate):
    """Every generated block and picture is what `python docs/generate.py` would write."""
    assert [str(path.relative_to(REPOSITORY)) for path, _ in generate.stale(REPOSITORY)] == []


@pytest.mark.parametrize("name", ["accuracy.csv", "comparisons.csv", "cost.csv", "coverage.csv", "plots/samples.png"])
def test_the_default_grid_is_published_once(name):
    """README takes the digits from metrics, the table of three data sets from metrics/profiles: the same run."""
    here, published = REPOSITORY / "metrics" / name, REPOSITORY / "metrics/profiles/digits" / Path(name).name
    assert here.read_bytes() == published.read_bytes()


def test_a_number_that_was_changed_by_hand_is_noticed(generate, tmp_path):
    """The page is named, and what is written is the page as it was."""
    shutil.copytree(REPOSITORY / "docs/images", tmp_path / "docs/images")
    readme = (REPOSITORY / "README.md").read_text()
    (tmp_path / "README.md").write_text(re.sub(r"\| IMS3 \| \d", "| IMS3 | 1", readme, count=1))
    (tmp_path / "docs/images/tests.svg").unlink()
    stale = {path.relative_to(tmp_path).as_posix(): content for path, content in generate.stale(tmp_path)}
    assert stale.keys() == {"README.md", "docs/images/tests.svg"}
    assert stale["README.md"].decode() == readme


def test_every_block_is_used_and_known(generate, pages):
    """A marker of another name would stay empty, a function that no page asks for would be forgotten."""
    used = {name for text in pages.texts.values() for name in re.findall(r"<!-- begin (\w+) -->", text)}
    assert used == generate.BLOCKS.keys()


def test_every_row_and_study_has_a_text_and_every_text_a_row(generate):
    """Texts by hand stand beside what is generated, for what there is and nothing else."""
    from parts import methods

    texts = yaml.safe_load((REPOSITORY / "docs/methods.yaml").read_text())
    readings = yaml.safe_load((REPOSITORY / "docs/studies.yaml").read_text())
    assert texts.keys() == methods._holders().keys()
    assert readings.keys() == definitions.read(REPOSITORY).keys()


@pytest.mark.parametrize("axis", entries.AXES)
def test_every_entry_has_its_keys_on_the_page_of_parameters(pages, axis):
    """Its section is there, with a line for every key."""
    text = pages.texts["docs/parameters.md"]
    for name in entries.names(axis):
        fields = entries.entry_class(axis, name, axis).model_fields
        section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert [key for key in fields if f"| `{key}` |" not in section] == [], name


def test_the_figure_shows_every_stage_and_real_arrows(generate):
    """Every stage of dvc.yaml is a box, and at every arrow the second stage reads what the first one writes."""
    from parts import pictures, pipeline

    def of(stage, key):
        entry = pipeline.read()[stage]
        values = [next(iter(v)) if isinstance(v, dict) else v for v in entry.get("do", entry).get(key, [])]
        return [re.sub(r"/?\$\{[^}]+\}.*", "", value) for value in values]

    assert pictures.STAGES.keys() == pipeline.read().keys()
    for one, other in pictures.ARROWS:
        assert any(overlap(out, dep) for out in of(one, "outs") for dep in of(other, "deps")), (one, other)
