"""
Train for a while with everything switched on, and watch memory, threads and open files.

HalfCheetah, with evaluations that draw and film, the doctor, checkpoints, TensorBoard and overlap. Each line is one
evaluation. A replay buffer that is soon full leaves nothing that may grow.

Usage: python benchmarks/soak.py --minutes 30 --out soak
"""

from __future__ import annotations

import argparse
import csv
import gc
import threading
import time
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from sb3_metra import METRA
from sb3_metra.doctor import DoctorCallback
from sb3_metra.envs.batch import make_fast_vec_env
from sb3_metra.evaluation import SkillEvalCallback

ENV, PROC = "sb3_metra/HalfCheetah-v0", Path("/proc/self")


class Watch(BaseCallback):
    """
    Writes a line every so many steps, saves a checkpoint, and ends the run in time.

    :param out: folder of the table and the checkpoints
    :param seconds: wall time
    :param freq: environment steps between two lines
    """

    def __init__(self, out: Path, seconds: float, freq: int) -> None:
        super().__init__()
        self._out, self._freq, self._next = out, freq, freq
        self._start, self._end = time.monotonic(), time.monotonic() + seconds
        self.rows: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next += self._freq
            self.model.save_checkpoint(self._out / "checkpoints")  # type: ignore[attr-defined]
            self.rows.append({"minutes": (time.monotonic() - self._start) / 60, "steps": self.num_timesteps} | look())
            print({name: round(value, 1) for name, value in self.rows[-1].items()}, flush=True)
            with (self._out / "soak.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows({name: f"{value:g}" for name, value in row.items()} for row in self.rows)
        return time.monotonic() < self._end


def look() -> dict[str, float]:
    """Memory in MB, threads, open files, and live Python objects."""
    gc.collect()
    pages = int((PROC / "statm").read_text().split()[1])
    files = len(list((PROC / "fd").iterdir()))
    return {
        "rss_mb": pages * 4096 / 1e6,
        "threads": threading.active_count(),
        "files": files,
        "objects": len(gc.get_objects()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--freq", type=int, default=8_000, help="environment steps between two evaluations")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    args = parser.parse_args()
    th.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    model = METRA(
        "MlpPolicy",
        make_fast_vec_env(ENV, 8, seed=0, n_threads=1),
        skill_dim=1,
        buffer_size=20_000,
        train_freq=200,
        gradient_steps=20,
        learning_starts=1_600,
        policy_kwargs={"net_arch": [64, 64]},
        phi_kwargs={"net_arch": [64, 64]},
        overlap=True,
        tensorboard_log=str(args.out / "tensorboard"),
        seed=0,
        device="cpu",
    )
    filmed = make_fast_vec_env(
        ENV, 4, seed=1, n_threads=1, env_kwargs={"render_mode": "rgb_array", "width": 96, "height": 96}
    )
    evaluation = SkillEvalCallback(filmed, args.freq, n_skills=8, figures=True, video_skills=2)
    examined = make_fast_vec_env(ENV, 4, seed=2, n_threads=1)
    doctor = DoctorCallback(examined, args.freq, n_episodes=8)
    watch = Watch(args.out, 60 * args.minutes, args.freq)
    model.learn(10**9, CallbackList([evaluation, doctor, watch]))
    for env in (model.get_env(), filmed, examined):
        env.close()  # type: ignore[union-attr]
    later = watch.rows[len(watch.rows) // 3 :]
    minutes, memory = (np.array([row[name] for row in later]) for name in ("minutes", "rss_mb"))
    slope = np.polyfit(minutes, memory, 1)[0] if len(later) > 1 else float("nan")
    print(
        f"after the first third, memory grows by {slope:.2f} MB a minute, from {memory[0]:.0f} to {memory[-1]:.0f} MB"
    )


if __name__ == "__main__":
    main()
