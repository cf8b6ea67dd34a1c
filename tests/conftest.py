"""What all tests share: one thread a process (pytest-xdist uses the cores), an image cache of the test session, and no
waiting for the disk: what a test writes need not outlive the machine's power."""

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MBIL_CACHE", tempfile.mkdtemp(prefix="mbil-test-"))

import torch

torch.set_num_threads(1)
os.fsync = lambda _file: None
