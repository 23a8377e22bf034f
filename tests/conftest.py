"""What every test runs under: one torch thread, fixed seeds, pictures without a screen."""

import ctypes.util
import gc
import multiprocessing
import os
import random
import sys

# MuJoCo and matplotlib read these when they are first imported, so they are set before any test module is.
if sys.platform == "linux" and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch as th

gc.disable()  # what tests import stays: hundreds of thousands of objects
th.set_num_threads(1)  # two threads on a busy machine are several times slower than one

# Environments' processes are forked from a server, which imports once what each of them would import for itself.
if sys.platform != "win32":
    multiprocessing.set_forkserver_preload(["sb3_metra.common.last_words"])

# PyTorch keeps every seed, with the stack that it came from, for devices that are not there: milliseconds each.
for device in (th.cuda, th.xpu, th.mtia):
    if not device.is_available():
        device.manual_seed_all = lambda seed: None


def pytest_collection_finish() -> None:
    """Collect garbage from now on, and never look at what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Seed every global source of randomness, so that a test gives the same result alone and among others."""
    random.seed(0)
    np.random.seed(0)
    th.manual_seed(0)
