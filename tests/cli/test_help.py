"""What help pages say: an example for every command that works as it stands, shell completion, the place to be in."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ims3core import cli
from ims3core.pipeline import profiles
from ims3core.studies import definitions

REPOSITORY = Path(__file__).resolve().parents[2]


def commands(group, *path):
    """Every command with the words that name it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_it_accepts(path):
    """One line at the end of its help; its words are valid arguments of this command."""
    example = COMMANDS[path].epilog
    assert example.startswith("Example: ims3 " + " ".join(path))
    words = shlex.split(example.removeprefix("Example: ims3 "))[len(path) :]
    context = COMMANDS[path].make_context(path[-1], words)
    assert not context.args


def test_rows_of_examples_are_rows_of_the_default_profile():
    """An example that one copies must not end in `unknown`."""
    params = profiles.read(REPOSITORY, "digits")
    rows = {
        "guides": params.guides, "finetune": params.adaptations, "candidates": params.pools, "features": params.pools,
        "centroids": params.centroids, "select": params.methods, "refine": params.refinements,
        "labels": params.eval.protocols, "study": definitions.read(REPOSITORY),
        "use": set(profiles.names(REPOSITORY)),
        "run": set(profiles.names(REPOSITORY)),
        "results": {path.name for path in (REPOSITORY / "metrics/profiles").iterdir()},
    }  # fmt: skip
    for name, known in rows.items():
        words = COMMANDS[(name,)].epilog.split()[3:]
        assert words and {word for word in words if "=" not in word} <= set(known), name
    method, ipc, student, protocol = COMMANDS[("students",)].epilog.split()[3:]
    grid = params.eval
    assert method in grid.methods and int(ipc) in grid.ipc and student in grid.students and protocol in grid.protocols


def test_the_shell_completes_names_of_commands():
    """The script that `--install-completion` installs asks this program for them."""
    ask = {"_IMS3_COMPLETE": "complete_bash", "COMP_WORDS": "ims3 do", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'ims3'; from ims3core.cli import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, env=os.environ | ask
    )
    assert done.stdout.split() == ["doctor"]
    assert "--install-completion" in typer.main.get_command(cli.app).epilog


@pytest.mark.parametrize(
    "words", [["select"], ["use", "digits"], ["run", "digits"], ["results"], ["export", "set", "ims3", "1", "x"]]
)
def test_outside_of_a_checkout_one_line_says_so(tmp_path, monkeypatch, capsys, words):
    """Whatever the command missed first; help works everywhere."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert re.fullmatch(
        r"ims3: no params.yaml, dvc.yaml or profiles/ in this folder: [^\n]+\n", capsys.readouterr().err
    )
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
