"""Where compiled code is kept: what is named, the user's own folder, temporary files; never somebody else's."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ims3core.base import caches


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The user's cache folder and the one of temporary files, both of the test's own."""
    monkeypatch.setattr(caches.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "home" / name))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(caches.COMPILED, raising=False)
    return tmp_path


def test_the_first_folder_that_can_be_written_is_taken_and_torch_is_told(places, monkeypatch, caplog):
    """A file in the place of a folder stands for what cannot be written, root or not."""
    assert caches.choose() == places / "home/ims3/compiled" == Path(os.environ[caches.COMPILED])
    monkeypatch.setenv(caches.COMPILED, str(places / "named"))
    assert caches.choose() == places / "named" and not caplog.messages
    (places / "file").touch()
    monkeypatch.setenv(caches.COMPILED, str(places / "file/compiled"))
    assert caches.choose() == places / "home/ims3/compiled"
    assert len(caplog.messages) == 1 and "file/compiled cannot be written: Not a directory" in caplog.text
    monkeypatch.delenv(caches.COMPILED)
    monkeypatch.setattr(caches.platformdirs, "user_cache_dir", lambda name: str(places / "file" / name))
    assert caches.choose() == places / f"ims3-{os.getuid()}/compiled" and len(caplog.messages) == 1


def test_code_in_a_folder_of_another_user_is_not_taken(places, monkeypatch):
    """Names among temporary files can be guessed."""
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert caches.fault(places) == f"{places} belongs to another user"


def test_a_home_that_cannot_be_written_does_not_keep_torch_from_compiling(tmp_path):
    """torch's compiler, which diffusers loads, makes its folder when it is imported."""
    code = "from ims3core.base import compute; import torch._dynamo, os; print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    env = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", caches.COMPILED)}
    env |= {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(tmp_path / f"ims3-{os.getuid()}/compiled"), done.stderr
