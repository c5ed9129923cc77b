"""Every entry of every axis keeps the contract of its folder; one that does not is refused in one line."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from ims3core.base.schema import Entry
from ims3core.errors import ParameterError
from ims3core.params import entries, parse
from ims3core.pipeline import profiles

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = profiles.read(REPOSITORY, "digits").tree
FOLDER = REPOSITORY / "ims3core/axes"
AXES = sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))
ENTRIES = [(axis, path.stem) for axis in AXES for path in sorted((FOLDER / axis).glob("[!_]*.py"))]
every_entry = pytest.mark.parametrize(("axis", "name"), ENTRIES, ids=map(".".join, ENTRIES))


def classes(module):
    """The subclasses of Entry that a module defines itself."""
    found = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Entry)]
    return [value for value in found if value.__module__ == module.__name__]


def entry(axis, name):
    """The one class of a module, as the contract says."""
    (only,) = classes(importlib.import_module(f"ims3core.axes.{axis}.{name}"))
    return only


@every_entry
def test_an_entry_is_one_class_that_can_do_what_its_axis_asks_for(axis, name):
    """A concrete subclass of the axis' base class; its module and the class say in one sentence what it is."""
    base = classes(importlib.import_module(f"ims3core.axes.{axis}"))[0]
    cls = entry(axis, name)
    assert issubclass(cls, base) and not inspect.isabstract(cls)
    assert cls.entry_name() == name
    for owner in (cls, sys.modules[cls.__module__]):
        assert owner.__doc__.splitlines()[0].endswith("."), owner


@every_entry
def test_every_key_is_described_required_and_read(axis, name):
    """No value is hidden in code, but what every entry of an axis may do besides; a key that nobody reads cannot exist."""
    cls = entry(axis, name)
    sources = {inspect.getsource(sys.modules[c.__module__]) for c in cls.__mro__ if c.__module__.startswith("ims3core")}
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for key, field in cls.model_fields.items():
        assert field.description, key
        assert field.is_required() or key in cls.__mro__[1].model_fields, key
        assert key in read, key


@every_entry
def test_an_entry_is_frozen_and_refuses_other_keys(axis, name):
    """Its values are those of params.yaml, all of them and no others."""
    cls = entry(axis, name)
    with pytest.raises(ValidationError) as refused:
        cls.model_validate({"no_such_key": 1})
    assert ("extra_forbidden", ("no_such_key",)) in [(e["type"], e["loc"]) for e in refused.value.errors()]
    with pytest.raises(ValidationError, match="frozen"):
        cls.model_construct().other = 1


@pytest.mark.parametrize("axis", AXES)
def test_entries_import_nothing_heavy(axis):
    """Checking params.yaml imports them."""
    names = "".join(f"import ims3core.axes.{axis}.{name}\n" for other, name in ENTRIES if other == axis)
    code = f"import sys\n{names}print([m for m in ('torch', 'numpy', 'sklearn', 'diffusers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_axis_is_found():
    """The folders are the axes that params.yaml is checked against."""
    assert sorted(entries.AXES) == AXES
    assert [(axis, name) for axis in AXES for name in entries.names(axis)] == ENTRIES


@pytest.fixture
def add(monkeypatch):
    """A function that adds a module ``ims3core.axes.<axis>.<name>`` with some source text for the test."""

    def enter(axis, name, source):
        module, names = types.ModuleType(f"ims3core.axes.{axis}.{name}"), entries.names
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(source, vars(module))
        monkeypatch.setattr(entries, "names", lambda other: sorted({*names(other), *([name] if other == axis else [])}))

    return enter


def changed(**tables):
    """The digits with more rows and sections."""
    tree = yaml.safe_load(yaml.safe_dump(DIGITS))
    for name, value in tables.items():
        tree[name] = tree.get(name, {}) | value
    return yaml.safe_dump(tree)


METHOD = {"odd": {"pool": "dit", "type": "odd", "centroids": "real"}}
SELECTION = """
from ims3core.axes.selections import Selection

class Odd(Selection):
    every: int

    def select(self, candidates, *, ipc, seed, draw):
        return None
"""
REFINEMENT = """
from ims3core.axes.refinements import Refinement

class Polish(Refinement):
    def passes(self, sets, classes):
        return {}

    def refine(self, start):
        return start.images
"""
GUIDE = """
from ims3core.axes.guides import Guide

class Asked(Guide):
    provides, needs_network = {provides!r}, {needs_network}

    def prepare(self, latents, denoiser, label):
        return {{}}

    def start(self, prepared, ipc, generator):
        return None
"""


def test_an_entry_is_found_by_its_module_alone(add):
    """One class in one file and a row: nothing is registered, and the values are those of its section."""
    add("selections", "odd", SELECTION)
    params = parse(changed(methods=METHOD, odd={"every": 3}))
    assert (params.selection("odd").every, params.selection("odd").facts) == (3, {"entry": "odd", "every": 3})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "has none, wanted exactly one subclass of Selection"),
        (SELECTION.replace("(Selection)", ""), "has none, wanted exactly one subclass of Selection"),
        ("from ims3core.axes.selections.first import First", "has none, wanted exactly one subclass of Selection"),
        (SELECTION + SELECTION.replace("Odd", "Even"), "has Odd, Even, wanted exactly one subclass of Selection"),
        (SELECTION.replace("def select", "def choose"), "Odd has no select"),
    ],
    ids=["empty", "of no axis", "imported", "two", "without its method"],
)
def test_a_module_that_is_no_entry_is_refused(add, source, message):
    """The line names the row's key, the file, and what is missing or too much in it."""
    add("selections", "odd", source)
    with pytest.raises(ParameterError) as refused:
        parse(changed(methods=METHOD, odd={"every": 3}))
    place = "params.yaml: methods.odd.type: ims3core/axes/selections/odd.py"
    assert re.fullmatch(f"{re.escape(place)}:? {re.escape(message)}", str(refused.value))


def test_all_that_a_class_lacks_is_named(add):
    """Methods and class attributes alike, before anything asks for them."""
    add("guides", "asked", "from ims3core.axes.guides import Guide\nclass Asked(Guide):\n    per_ipc = True")
    rows = {"guides": {"asked": {"type": "asked", "adaptation": "none"}}, "asked": {}}
    with pytest.raises(
        ParameterError,
        match=r"guides\.asked\.type: ims3core/axes/guides/asked\.py: Asked has no prepare and no provides and no start$",
    ):
        parse(changed(**rows))


def test_a_row_without_module_or_section_is_refused(add):
    """The line names the row's key and what is missing."""
    with pytest.raises(
        ParameterError,
        match=r"methods\.odd\.type: 'odd' is unknown; known: .*first, .*\(ims3core/axes/selections/<name>",
    ):
        parse(changed(methods=METHOD))
    add("selections", "odd", SELECTION)
    with pytest.raises(
        ParameterError, match=r"odd: missing; methods\.odd\.type names 'odd', which wants a section .* \(every\)"
    ):
        parse(changed(methods=METHOD))


def test_a_circle_of_starts_is_refused(add):
    """And it is shown."""
    add("refinements", "polish", REFINEMENT)
    rows = {"a": {"start": "b", "type": "polish"}, "b": {"start": "a", "type": "polish"}}
    with pytest.raises(ParameterError, match=r"refinements\.a\.start: goes round in circles \(a <- b <- a\)"):
        parse(changed(refinements=rows, polish={}))
    with pytest.raises(ParameterError, match=r"refinements\.a\.start: 'moon' is unknown; known: a, dit"):
        parse(changed(refinements={"a": {"start": "moon", "type": "polish"}}, polish={}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"set": {"factor": 3}}}, "refinements.a: factor: found 3 for images of 8 px, wanted at least 4 px for each tile"),
        ({"a": {"set": {"factor": 0}}}, "refinements.a.set.factor: found 0, input should be greater than or equal to 1"),
        ({"a": {"set": {"factor": 2}}, "b": {"start": "a"}}, "refinements.b: factor: found 1, wanted 2, that of the row"),
        ({"a": {"type": "conditional_likelihood", "set": {"factor": 2}}}, "refinements.a.set.factor: it moves latents, which cannot be mosaics; found 2, wanted 1"),
        ({"a": {"set": {"factor": 2, "space": "latents"}}}, "refinements.a.set: factor: space: latents moves latents, which cannot be mosaics; found 2, wanted 1"),
    ],
)  # fmt: skip
def test_a_factor_that_cannot_be_is_refused(rows, message):
    """Tiles too small, a row that would read mosaics as images, refinements of latents."""
    profile = profiles.read(REPOSITORY, "digits-all").tree
    rows = {name: {"start": "random", "type": "distribution_matching"} | row for name, row in rows.items()}
    with pytest.raises(ParameterError) as refused:
        parse(
            changed(
                refinements=rows,
                **{name: profile[name] for name in ("distribution_matching", "conditional_likelihood")},
            )
        )
    assert message in str(refused.value)
    fine = {"a": {"start": "random", "type": "distribution_matching", "set": {"factor": 2}}}
    chain = fine | {"b": fine["a"] | {"start": "a"}}
    assert parse(changed(refinements=chain)).refinement("b").tiles == 4


def test_a_refined_row_can_be_compared_and_start_another(add):
    """Rows of either table stand in eval.methods, and refinements chain."""
    add("refinements", "polish", REFINEMENT)
    rows = {"a": {"start": "ims3", "type": "polish"}, "b": {"start": "a", "type": "polish"}}
    params = parse(changed(refinements=rows, polish={}, eval={"methods": ["random", "ims3", "b"]}))
    assert params.refinement("b").entry_name() == "polish"


def test_a_name_in_both_tables_is_refused(add):
    """Which sets would it be?"""
    add("refinements", "polish", REFINEMENT)
    with pytest.raises(ParameterError, match=r"refinements\.ims3: methods has a row of this name too"):
        parse(changed(refinements={"ims3": {"start": "dit", "type": "polish"}}, polish={}))


def test_a_guide_of_another_adaptation_is_refused(add):
    """A guide that asked one network does not fit the pool of another."""
    pool = DIGITS["pools"]["im"] | {"guide": "asked"}
    rows = {"guides": {"asked": {"type": "asked", "adaptation": "none"}}, "pools": {"im": pool}, "asked": {}}
    add("guides", "asked", GUIDE.format(provides="nothing", needs_network=True))
    with pytest.raises(
        ParameterError, match=r"pools\.im\.guide: 'asked' was prepared with adaptation 'none', the pool has 'im'"
    ):
        parse(changed(**rows))
    add("guides", "asked", GUIDE.format(provides="nothing", needs_network=False))
    assert parse(changed(**rows)).pool("im").guide.entry_name() == "asked"


def test_a_guide_that_the_sampler_does_not_take_is_refused(add):
    """Both are named, with what is given and taken."""
    add("guides", "aim", GUIDE.format(provides="targets", needs_network=False))
    pool = DIGITS["pools"]["dit"] | {"guide": "aim"}
    rows = {"guides": {"aim": {"type": "aim", "adaptation": "none"}}, "pools": {"dit": pool}, "aim": {}}
    with pytest.raises(
        ParameterError, match=r"pools\.dit\.guide: 'aim' gives targets, sampler 'dpm_solver' takes nothing"
    ):
        parse(changed(**rows))


def test_a_key_of_two_sections_cannot_be_overridden(add):
    """Whose would it be?"""
    source = """
from ims3core.axes.sources.generated import Generated

class Odd(Generated):
    steps: int
"""
    add("sources", "odd", source)
    pool = DIGITS["pools"]["dit"] | {"source": "odd", "set": {"steps": 3}}
    with pytest.raises(
        ParameterError, match=r"pools\.dit\.set\.steps: two sections of this row have this key; known: s"
    ):
        parse(changed(pools={"dit": pool}, odd={"steps": 2}))


def test_a_pool_per_ipc_holds_no_more_than_it_says():
    """A selection among more candidates than the IPC does not go with it."""
    tree = profiles.read(REPOSITORY, "digits-all").tree
    tree["methods"]["odd"] = {"pool": "mgd3", "type": "s3", "centroids": "real"}
    with pytest.raises(ParameterError, match=r"eval\.ipc: 10 images per class and draw are too few for methods\.odd"):
        parse(yaml.safe_dump(tree))


@pytest.mark.parametrize(("key", "ours", "theirs"), [("steps", 20, 25), ("level", 0.5, 0.75)])
def test_starts_stand_at_the_noise_level_of_their_guide(key, ours, theirs):
    """The sampler that goes on from them has the guide's steps and level; both values are named."""
    tree = profiles.read(REPOSITORY, "digits-all").tree
    tree["pools"]["d3hr"]["set"] = {key: ours}
    with pytest.raises(
        ParameterError, match=rf"pools\.d3hr: from_statistics\.{key} is {ours}, that of guide 'statistics' is {theirs}"
    ):
        parse(yaml.safe_dump(tree))
