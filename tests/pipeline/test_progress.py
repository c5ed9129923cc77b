"""Progress in a pipe: nothing for short work, a line now and then for long work."""

import logging

from ims3core.pipeline import progress


def test_short_work_in_a_pipe_is_silent(caplog):
    caplog.set_level(logging.INFO)
    assert list(progress.track(range(5), label="short")) == [0, 1, 2, 3, 4]
    assert not caplog.messages


def test_long_work_in_a_pipe_says_how_far_it_is(caplog, monkeypatch):
    """A line every so many seconds, with what an earlier run had done and the minutes left at this pace."""
    caplog.set_level(logging.INFO)
    clock = iter(range(0, 100_000, 120))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))

    assert list(progress.track(iter(range(6)), label="VAE", total=10, done=4)) == list(range(6))

    assert caplog.messages == ["VAE: 7 of 10, about 6 min left", "VAE: 10 of 10, about 0 min left"]
