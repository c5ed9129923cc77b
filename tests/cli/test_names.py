"""Names that people give: none is a path, whatever it looks like, and whoever takes it."""

import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
import yaml

from ims3core import cli, params
from ims3core.errors import ParameterError
from ims3core.studies import definitions
from tests.conftest import toy_parameters

REPOSITORY = Path(__file__).resolve().parents[2]
BAD = {
    "upwards": "../x", "absolute": "/etc", "empty": "", "long": "x" * 300, "dot": ".", "parent": "..", "inner": "a/b",
    "lines": "a\nb", "hidden": "U+200B\u200b",
}  # fmt: skip
COMMANDS = [  # every command that takes a name; {} is the name
    "run {}", "repro {}", "study {}", "results {}", "use {}", "diff {}", "use --print {}", "finetune {}", "guides {}",
    "candidates {}", "features {}", "centroids {}", "select {}", "refine {}", "labels {}", "students {}",
    "students ims3 1 {}", "students ims3 1 convnet3 {}", "full-data {}", "full-data convnet3 {}", "diagnose {}",
    "new {} pictures", "export generator {} out", "export set {} 1 out", "export ddranking {} 1 out",
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with profiles, studies, results and a set that a path would lead to, committed."""
    from tests.pipeline.test_copies import git

    root = tmp_path_factory.mktemp("project") / "inner"
    root.mkdir()
    for name in ("profiles", "studies.yaml", "dvc.yaml"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, root / name)
    (root / "params.yaml").write_text(yaml.safe_dump(toy_parameters()))
    (root / "metrics/profiles/mine").mkdir(parents=True)
    (root / "metrics/profiles/mine/accuracy.csv").touch()
    for place in ("x", "data/x", "etc"):  # what `../x` and the like would lead to, from data/distilled and elsewhere
        shutil.copytree(REPOSITORY / "profiles", root.parent / place)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        git(root, *arguments)
    return root


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_a_name_that_is_no_name_is_one_line_and_nothing_is_written(project, monkeypatch, capsys, name):
    """By every command that takes one."""
    monkeypatch.chdir(project)
    before = sorted(project.parent.rglob("*"))
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([name if word == "{}" else word for word in command.split()])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and said.startswith("ims3: "), (command, said)
        assert said.count("\n") == 1 and len(said) < 600 and said.strip().isprintable(), (command, said)
    assert sorted(project.parent.rglob("*")) == before


def test_every_command_that_takes_a_name_is_asked():
    """A new command with a name among its arguments belongs into the list above."""
    group = typer.main.get_command(cli.app)
    commands = {(name,): command for name, command in group.commands.items()}
    commands |= {("export", name): command for name, command in commands.pop(("export",)).commands.items()}
    texts = (str, str | None, list[str] | None)
    named = {
        words for words, command in commands.items()
        for hint in get_type_hints(command.callback, include_extras=True).values()
        if isinstance(getattr(hint, "__metadata__", [None])[0], typer.models.ArgumentInfo) and get_args(hint)[0] in texts
    }  # fmt: skip
    asked = {words for one in COMMANDS for words in named if one.split()[: len(words)] == list(words)}
    assert named - asked == {("caption",)}  # which takes a model, by id or path


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
@pytest.mark.parametrize(
    "place",
    ["pools", "methods", "refinements", "adaptations", "guides", "centroids", "students", "protocols", "diagnostics"],
)
def test_a_row_is_named_by_a_word(place, name):
    """Files are called by it, from end to end of the pipeline."""
    tree = toy_parameters()
    tree.setdefault(place, {})[name] = {}
    with pytest.raises(ParameterError, match=rf"^params\.yaml: {place}\."):
        params.checked(tree)


@pytest.mark.parametrize("name", [*BAD.values(), "timm:../x", "timm:", "convnet\n", "timm:" + "x" * 300])
def test_students_and_other_entries_of_the_grid_are_known_words(name):
    """Cells are files, too."""
    for key in ("students", "methods", "protocols"):
        tree = toy_parameters()
        tree["eval"][key] = [name]
        with pytest.raises(ParameterError, match=rf"eval\.{key}"):
            params.checked(tree)


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_a_study_is_named_by_a_word(tmp_path, name):
    """Its table and figure are files of that name."""
    study = yaml.safe_load((REPOSITORY / "studies.yaml").read_text())["alpha_beta"]
    (tmp_path / "studies.yaml").write_text(yaml.safe_dump({"mine": study, name: study}))
    with pytest.raises(ParameterError, match=r"^studies\.yaml: found the name "):
        definitions.read(tmp_path)
