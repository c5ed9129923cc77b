"""What a machine measures once is read back, and anything else in its place is measured anew."""

import json

import pytest

from ims3core.base import measurements


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Calls of a measurement of two values, kept in a cache of its own; their results, and how often it measured."""
    monkeypatch.setattr(measurements.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    calls = []

    def ask(**options):
        return measurements.cached(
            "speeds", ("facts",), lambda: calls.append(1) or {"a": 1.5, "b": 2}, fields=("a", "b"), **options
        )

    return ask, calls, tmp_path / "speeds.json"


def test_values_are_measured_once(measured):
    ask, calls, _ = measured
    assert ask() == ask() == {"a": 1.5, "b": 2}
    assert len(calls) == 1
    ask(refresh=True)
    assert len(calls) == 2


@pytest.mark.parametrize("value", ["fast", None, True, [1.0], {"of": 1}, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_measured_anew(measured, value):
    """Of any field; the file is whole again afterwards."""
    ask, calls, path = measured
    ask()
    for field in ("a", "b"):
        stored = json.loads(path.read_text())
        next(iter(stored.values()))[field] = value
        path.write_text(json.dumps(stored))
        assert ask() == {"a": 1.5, "b": 2}
    assert len(calls) == 3
    assert ask() == {"a": 1.5, "b": 2}
    assert len(calls) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"x": 3}'])
def test_a_damaged_file_is_written_anew(measured, text):
    ask, calls, path = measured
    path.write_text(text)
    assert ask() == ask() == {"a": 1.5, "b": 2}
    assert len(calls) == 1


def test_what_is_not_to_be_kept_is_not(measured):
    ask, calls, path = measured
    ask(keep=lambda: False)
    assert not path.exists()
    ask()
    assert len(calls) == 2
