"""Every entry of every axis keeps the contract of its folder; one that does not is refused in one line."""

import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from ims3core.params import parse
from ims3core.params.schema import Empty
from ims3core.shell import axes
from ims3core.shell.errors import ParameterError

REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = yaml.safe_load((REPOSITORY / "profiles/digits.yaml").read_text())
ENTRIES = [(axis, name) for axis in axes.NAMES for name in axes.entries(axis)]
# The function of an entry that takes the keys of its section, per axis.
TAKES_SECTION = {
    "sources": ("maker", "calls"), "adaptations": ("objective", "passes"), "guides": ("prepare", "start", "calls"),
    "samplers": ("calls", "sample"), "selections": ("need", "select"), "refinements": ("refine",),
    "probes": ("measure",),
}  # fmt: skip


@pytest.mark.parametrize(("axis", "name"), ENTRIES)
def test_an_entry_has_what_its_axis_asks_for(axis, name):
    """Every part of the contract, and a first line that says what it is."""
    axes.load(axis, name, "here")
    assert axes.summary(axis, name).endswith(".")


@pytest.mark.parametrize(("axis", "name"), [entry for entry in ENTRIES if entry[1] != "none"])
def test_functions_take_exactly_the_keys_of_the_section(axis, name):
    """A key that nobody reads, or one that is hidden in code, cannot exist."""
    module = axes.load(axis, name, "here")
    keys = set(module.Section.model_fields)
    for function in filter(None, (getattr(module, part) for part in TAKES_SECTION[axis])):
        parameters = inspect.signature(function).parameters.values()
        named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            assert named & keys <= keys
        else:
            assert keys <= named | {p.name for p in parameters}, function


@pytest.mark.parametrize("axis", axes.NAMES)
def test_entries_import_nothing_heavy(axis):
    """Checking params.yaml imports them."""
    names = "".join(f"import ims3core.{axis}.{name}\n" for name in axes.entries(axis))
    code = f"import sys, ims3core.{axis}\n{names}print([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.fixture
def add(monkeypatch):
    """A function that adds a module to an axis for the test."""

    def enter(axis, name, **parts):
        known, module = axes.entries, types.ModuleType(f"ims3core.{axis}.{name}")
        for part, value in parts.items():
            setattr(module, part, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(axes, "entries", lambda wanted: sorted(known(wanted) + [name] * (wanted == axis)))

    return enter


def changed(**tables):
    """The digits with more rows and sections."""
    tree = yaml.safe_load(yaml.safe_dump(DIGITS))
    for name, value in tables.items():
        tree[name] = tree.get(name, {}) | value
    return yaml.safe_dump(tree)


METHOD = {"odd": {"pool": "dit", "selection": "odd", "centroids": "real", "reads": "data/real/classes.json"}}
READS = {"reads": "data/real/train"}


def test_a_module_without_its_function_is_refused(add):
    """The line names the file, the missing part and all that an entry has."""
    add("selections", "odd", Section=Empty, DETERMINISTIC=True, SOURCES=None, need=lambda ipc: None)
    with pytest.raises(
        ParameterError, match=r"methods\.odd\.selection: ims3core/selections/odd\.py has no 'select'; an"
    ):
        parse(changed(methods=METHOD, odd={}))


def test_a_row_without_module_or_section_is_refused(add):
    """The line names the row's key and what is missing."""
    with pytest.raises(
        ParameterError, match=r"methods\.odd\.selection: 'odd' is unknown; known: .*first, .*selections/"
    ):
        parse(changed(methods=METHOD))
    add("selections", "odd", Section=Empty, DETERMINISTIC=True, SOURCES=None, need=lambda ipc: None, select=None)
    with pytest.raises(
        ParameterError, match=r"odd: missing; methods\.odd\.selection names 'odd', which wants a section"
    ):
        parse(changed(methods=METHOD))


def refinement(add):
    add("refinements", "polish", Section=Empty, READS="data/real/train", passes=None, refine=None)


def test_a_circle_of_starts_is_refused(add):
    """And it is shown."""
    refinement(add)
    rows = {"a": {"start": "b", "by": "polish", **READS}, "b": {"start": "a", "by": "polish", **READS}}
    with pytest.raises(ParameterError, match=r"refined\.a\.start: goes round in circles \(a <- b <- a\)"):
        parse(changed(refined=rows, polish={}))
    with pytest.raises(ParameterError, match=r"refined\.a\.start: 'moon' is unknown; known: a, dit"):
        parse(changed(refined={"a": {"start": "moon", "by": "polish", **READS}}, polish={}))


def test_a_refined_row_can_be_compared_and_start_another(add):
    """Rows of either table stand in eval.methods, and refinements chain."""
    refinement(add)
    rows = {"a": {"start": "ims3", "by": "polish", **READS}, "b": {"start": "a", "by": "polish", **READS}}
    params = parse(changed(refined=rows, polish={}, eval={"methods": ["random", "ims3", "b"]}))
    assert params.refinement("b").name == "polish"


def test_a_name_in_both_tables_is_refused(add):
    """Which sets would it be?"""
    refinement(add)
    with pytest.raises(ParameterError, match=r"refined\.ims3: methods has a row of this name too"):
        parse(changed(refined={"ims3": {"start": "dit", "by": "polish", **READS}}, polish={}))


def test_a_guide_of_another_adaptation_is_refused(add):
    """A guide that asked one network does not fit the pool of another."""
    guide = {"GIVES": "nothing", "PER_IPC": False, "prepare": None, "start": None, "calls": None, "Section": Empty}
    pool = DIGITS["pools"]["im"] | {"guide": "asked"}
    rows = {"guides": {"asked": {"by": "asked", "adaptation": "none"}}, "pools": {"im": pool}, "asked": {}}
    add("guides", "asked", NETWORK=True, **guide)
    with pytest.raises(
        ParameterError, match=r"pools\.im\.guide: 'asked' was prepared with adaptation 'none', the pool"
    ):
        parse(changed(**rows))
    add("guides", "asked", NETWORK=False, **guide)
    assert parse(changed(**rows)).pool("im").guide.name == "asked"


def test_a_guide_that_the_sampler_does_not_take_is_refused(add):
    """Both are named, with what is given and taken."""
    add(
        "guides",
        "aim",
        NETWORK=False,
        GIVES="targets",
        PER_IPC=False,
        prepare=None,
        start=None,
        calls=None,
        Section=Empty,
    )
    pool = DIGITS["pools"]["dit"] | {"guide": "aim"}
    rows = {"guides": {"aim": {"by": "aim", "adaptation": "none"}}, "pools": {"dit": pool}, "aim": {}}
    with pytest.raises(
        ParameterError, match=r"pools\.dit\.guide: 'aim' gives targets, sampler 'dpm_solver' takes nothing"
    ):
        parse(changed(**rows))
