"""A run for test_kills.py to kill: it goes on from its newest checkpoint, and saves the model at its end."""

from __future__ import annotations

import sys
from pathlib import Path

import torch as th

from sb3_metra import METRA
from sb3_metra.common.checkpoint import RunCheckpointCallback
from tests.test_resume import remembering
from tests.toys import tiny_model

STEPS = 2_400


def main(folder: Path) -> None:
    th.set_num_threads(1)
    checkpoints = folder / "checkpoints"
    if checkpoints.is_dir() and any(checkpoints.glob("step_*")):
        model = METRA.resume(folder, remembering(), device="cpu")
    else:
        model = tiny_model(remembering())
    print(f"begins at {model.num_timesteps}", flush=True)
    model.learn(STEPS - model.num_timesteps, RunCheckpointCallback(8, checkpoints), reset_num_timesteps=False)
    model.save(folder / "final")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
