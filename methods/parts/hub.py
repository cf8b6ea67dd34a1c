"""Whether the Hugging Face hub can be reached, asked once before it is: its client tries again for a minute."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 4.0  # that a name server and a connection have together


def reachable() -> bool:
    """Whether something answers where the hub is, or where the proxy to it is."""
    from huggingface_hub import constants

    proxy = getproxies().get("https") or getproxies().get("all")
    place = urlsplit(proxy if proxy and "//" in proxy else f"http://{proxy}" if proxy else constants.ENDPOINT)
    found = threading.Event()

    def ask() -> None:  # a name server cannot be given a time, so it is asked aside
        try:
            port = place.port or (443 if place.scheme == "https" else 80)
            socket.create_connection((place.hostname or "", port), SECONDS).close()
            found.set()
        except (OSError, ValueError):
            pass

    asked = threading.Thread(target=ask, daemon=True)
    asked.start()
    asked.join(SECONDS)
    return found.is_set()


@contextmanager
def within_reach(asked: bool) -> Iterator[bool]:
    """Inside, only what is on this machine is looked for if the hub cannot be reached; whether it can.

    Args:
        asked: whether it will be; else nothing is tried, and it can.
    """
    if not asked:
        yield True
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    there = not before and reachable()
    constants.HF_HUB_OFFLINE = not there
    try:
        yield there
    finally:
        constants.HF_HUB_OFFLINE = before


def absent(name: str, instead: str) -> str:
    """What to do about what is neither here nor within reach.

    Args:
        name: of the repository, or of whatever is not there. instead: what a folder of files is given as.
    """
    from huggingface_hub import constants

    return (
        f"not on this machine, and {urlsplit(constants.ENDPOINT).hostname} cannot be reached from it: where there is a "
        f"network, hf download {name} --local-dir FOLDER; bring the folder here and say {instead}"
    )
