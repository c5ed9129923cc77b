"""Without a network the hub's cache is asked at once; with one, nothing is different."""

import logging
import socket

import pytest
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ims3core.base import hub
from ims3core.classifiers.encoder import timm_encoder
from ims3core.errors import ParameterError


@pytest.fixture
def nobody(monkeypatch):
    """An address of the hub where nobody answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_tried_twice_where_nobody_answers(nobody, tmp_path, caplog):
    """The cache is asked and no line of a retry is logged; afterwards the setting is what it was."""
    caplog.set_level(logging.WARNING)
    with pytest.raises(LocalEntryNotFoundError), hub.cache_if_unreachable():
        assert constants.is_offline_mode()
        snapshot_download("a/b", cache_dir=tmp_path)
    assert not constants.HF_HUB_OFFLINE
    assert "Retry" not in caplog.text


def test_a_network_of_timm_whose_configuration_is_on_the_hub_is_refused_at_once(nobody, caplog):
    """``hf-hub:`` names ask the hub before any weights do."""
    caplog.set_level(logging.WARNING)
    with pytest.raises(ParameterError, match=r"encoder.network: hf-hub:nobody/nothing: .*local-dir:FOLDER"):
        timm_encoder("hf-hub:nobody/nothing", None)
    assert "Retry" not in caplog.text


def test_the_copy_of_datasets_is_set_too(nobody):
    """It reads its own when it is asked for a data set."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    with hub.cache_if_unreachable():
        assert config.HF_HUB_OFFLINE
    assert before == config.HF_HUB_OFFLINE


@pytest.mark.parametrize(("offline", "asked"), [(False, 1), (True, 0)])
def test_an_answer_changes_nothing_and_who_is_offline_is_not_asked(monkeypatch, offline, asked):
    """One request at most."""
    calls = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub, "_answers", lambda address: calls.append(address) or True)
    with hub.cache_if_unreachable():
        assert offline == constants.HF_HUB_OFFLINE
    assert (constants.HF_HUB_OFFLINE, len(calls)) == (offline, asked)
