"""What all tests share: one thread a process (pytest-xdist uses the cores), an image cache of the test session, and no
waiting for the disk: what a test writes need not outlive the machine's power.

Of a property 25 examples are tried, always the same; with ``--hypothesis-profile all`` a hundred new ones.
"""

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MBIL_CACHE", tempfile.mkdtemp(prefix="mbil-test-"))

import pytest
import torch
from hypothesis import settings

from benchmark.record import shelves

torch.set_num_threads(1)
os.fsync = lambda _file: None

settings.register_profile("few", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("all", deadline=None, max_examples=100)
settings.load_profile("few")

SLOW = ("test_methods.py", "test_pages.py")


@pytest.fixture(autouse=True)
def nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside runs that a test makes in a folder of its own no records stand that come with the package."""
    monkeypatch.setattr(shelves, "SHIPPED", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every worker begins with its part of the slow tests: the quick ones at the end are easily shared.

    pytest-xdist hands each worker a stretch of the list, as long as the others', and moves its tail when another idles.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.path.name in SLOW]
    rest = [item for item in items if item.path.name not in SLOW]
    share = -(-len(rest) // workers)
    items[:] = [
        item
        for worker in range(workers)
        for item in (*slow[worker::workers], *rest[worker * share : (worker + 1) * share])
    ]
