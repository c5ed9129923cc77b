"""The Hugging Face hub where there is no network: its local cache at once, instead of a minute of retries."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

PATIENCE_S = 5.0  # for the hub's first answer


@contextlib.contextmanager
def cache_if_unreachable() -> Iterator[None]:
    """Inside, libraries that load from the hub look into its local cache only, if one request finds no hub.

    What is not in the cache is then their error after that one request; an answer of any kind changes nothing.
    """
    from huggingface_hub import constants

    places: list[object] = [constants]
    if "datasets" in sys.modules:  # keeps a copy of its own
        places.append(sys.modules["datasets"].config)
    before = [vars(place)["HF_HUB_OFFLINE"] for place in places]
    offline = constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT)
    try:
        for place in places if offline else ():
            setattr(place, "HF_HUB_OFFLINE", True)  # noqa: B010
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, "HF_HUB_OFFLINE", value)  # noqa: B010


def _answers(address: str) -> bool:
    """Whether the hub's own client, with whatever proxies it knows, gets any answer."""
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=PATIENCE_S)
    except Exception:  # whatever the client raises: no name, no route, no certificate
        return False
    return True
