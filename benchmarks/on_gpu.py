"""
All that this project wants to know of a GPU, in one go: tests, parts of a gradient step, environments, and training.

Each part is a command of its own with a time limit, after which it ends with all its children, and its words go to a
file of its own. After each part, and every two minutes, what there is by then is packed into --out/send, in files of at
most 15 MiB: no part can lose what others have left. Training comes last and gets the time that is left. If it dies at
once, it is tried again with the other way to draw, and learns in turn. The same command with the same --out goes on
from its checkpoint.

A GPU's driver may hang if several processes draw at once, so environments are tried with each of --gl and each number
of workers on its own; training draws with the first that answered.

Usage: python benchmarks/on_gpu.py --out runs/gpu --minutes 25 (try it first: --device cpu --quick)
Afterwards: tar xzf results.tgz; cat NAME.safetensors.* > NAME.safetensors for what came in pieces. A model made
with the arguments in settings.json takes weights by model.actor.load_state_dict(safetensors.torch.load_file(...)).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_BYTES = 15 * 2**20  # of a file to send
SMALL = (".txt", ".json", ".csv", ".npz", ".png")
PACK_EVERY = 120.0  # seconds
LANDING = 90.0  # seconds that training needs to measure the last skills and to write the model
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")


@dataclass
class Part:
    """
    A command with a time limit.

    :param name: of the part, and of the file that its words go to
    :param command: what Python is to run
    :param seconds: its limit
    :param environ: further variables
    """

    name: str
    command: list[str]
    seconds: float
    environ: dict[str, str] = field(default_factory=dict)

    def run(self, out: Path, left: float) -> str:
        """
        Run it, and end it with all its children when its time is over.

        :param out: folder for its words
        :param left: seconds until everything must be done
        :return: how it ended
        """
        start = time.monotonic()
        with (out / f"{self.name}.txt").open("a") as file:
            print(" ".join(self.command), file=file, flush=True)
            process = subprocess.Popen(
                [sys.executable, *self.command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | ONE_THREAD | self.environ,
                start_new_session=True,
            )
            try:
                ended = wait(process, out, start + max(min(self.seconds, left), 1.0))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # workers that it left, too
                process.wait()
        note(out, self.name, {"ended": ended, "seconds": round(time.monotonic() - start, 1)})
        try_to_pack(out)
        return ended


def wait(process: subprocess.Popen[bytes], out: Path, end: float) -> str:
    """
    Wait for a process, and pack now and then what there is.

    :param process: the process
    :param out: folder of the results
    :param end: until when
    :return: how it ended
    """
    while (left := end - time.monotonic()) > 0.0:
        try:
            return f"exit status {process.wait(min(left, PACK_EVERY))}"
        except subprocess.TimeoutExpired:
            try_to_pack(out)
    return "time is over"


def note(out: Path, name: str, what: dict[str, object]) -> None:
    """Write down how a part ended, in parts.json, and say it."""
    path = out / "parts.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {name: what}, indent=1) + "\n")
    print(f"{name}: {what['ended']} after {what['seconds']} s", flush=True)


def try_to_pack(out: Path) -> None:
    """Pack; what cannot be packed, such as a file that is being written, must not end the visit."""
    try:
        pack(out)
    except Exception as error:
        print(f"not packed: {error!r}", flush=True)


def pack(out: Path, max_bytes: int = MAX_BYTES) -> None:
    """
    Put what there is into a folder ``send``: small files into one archive, each run's newest weights beside it.

    :param out: folder of the results
    :param max_bytes: of a file to send
    """
    send = out / "send"
    send.mkdir(exist_ok=True)
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and send not in path.parents]
    new = send / "results.new"
    with tarfile.open(new, "w:gz") as tar:
        for path in files:
            if path.suffix in SMALL and path.stat().st_size <= max_bytes // 8 and "checkpoints" not in path.parts:
                tar.add(path, path.relative_to(out))
    new.replace(send / "results.tgz")  # the archive before this one is whole until then
    for run in (path.parent for path in files if path.name == "settings.json"):
        models = [*run.glob("*model.zip"), *run.glob("checkpoints/*/model.zip")]
        if models:
            send_weights(max(models, key=lambda path: path.stat().st_mtime), send / run.name, max_bytes)


def send_weights(model: Path, to: Path, max_bytes: int) -> None:
    """
    Put a model's networks aside in half precision, each in a file: a tenth of the model, whose optimisers stay behind.

    :param model: its file
    :param to: how the files' names begin
    :param max_bytes: of a file to send
    """
    import safetensors.torch

    from sb3_metra.common.saving import read_parameters

    _, parameters = read_parameters(model)
    networks = {"objective": parameters["objective"]}
    for network in ("actor", "critic"):
        begin = f"{network}."
        own = {name: x for name, x in parameters["policy"].items() if name.startswith(begin)}
        networks[network] = {name.removeprefix(begin): x for name, x in own.items()}
    for network, weights in networks.items():
        halves = {name: x.half().contiguous() if x.is_floating_point() else x for name, x in weights.items()}
        cut(safetensors.torch.save(halves), to.with_name(f"{to.name}_{network}.safetensors"), max_bytes)


def cut(content: bytes, to: Path, max_bytes: int) -> None:
    """
    Write a file, in pieces if it is large.

    :param content: what to write
    :param to: the file; pieces are numbered
    :param max_bytes: of a piece
    """
    pieces = [content[i : i + max_bytes] for i in range(0, len(content), max_bytes)]
    names = [to.name] if len(pieces) == 1 else [f"{to.name}.{i}" for i in range(len(pieces))]
    for old in to.parent.glob(f"{to.name}*"):
        if old.name not in names:
            old.unlink()
    for name, piece in zip(names, pieces, strict=True):
        to.with_name(name).write_bytes(piece)


def make_parts(args: argparse.Namespace) -> list[Part]:
    """All parts but training, in their order."""
    slow = 4.0 if args.quick else 1.0
    parts = [str(HERE / "step_parts.py"), "--device", args.device]
    small = ["--batch-size", "16", "--width", "32", "--repeats", "1"] if args.quick else ["--repeats", "10"]
    variants = ["float32"] if args.quick else ["float32", "tf32", "bfloat16"]
    pixels = variants if args.quick else [*variants, "channels first", "shared critic encoder"]
    tests = [str(HERE.parent / "tests" / f"test_{name}.py") for name in ("captured_step", "frame_buffer", "buffers")]
    replay = ["--repeats", "2", "--buffer-size", "3200"] if args.quick else []
    made = [
        Part("machine", ["-m", "torch.utils.collect_env"], 30 * slow),
        Part("tests", ["-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", "cuda or gpu", *tests], 90 * slow),
        Part("step_pixels", [*parts, *small, "--variants", *pixels], 150 * slow),
        Part("step_state", [*parts, *small, "--variants", *variants, "--observations", "state"], 75 * slow),
        Part("replay", [str(HERE / "frame_buffer.py"), "--device", args.device, *replay], 60 * slow),
    ]
    for part in made:
        if part.name.startswith("step_"):
            part.command += ["--out", str(args.out / f"{part.name}.json")]
    drawing = [str(HERE / "pixel_envs.py"), "--envs", *args.envs]
    for gl in args.gl:
        for workers in ("1", "2") if args.quick else ("1", "8", "16"):
            few = ["--steps", "10"] if args.quick else []
            few += ["--repeats", ("5" if args.quick else "50") if workers == "1" else "0"]
            command = [*drawing, "--workers", workers, *few]
            made.append(Part(f"environments_{gl}_{workers}", command, 30 * slow, {"MUJOCO_GL": gl}))
    return made


def make_training(args: argparse.Namespace, env_id: str, gl: str, overlap: bool, seconds: float) -> Part:
    """Training in one of the environments."""
    encoder = {"net_arch": [16], "features_extractor_kwargs": {"depth": 4}}
    tiny: dict[str, object] = {
        "policy_kwargs": encoder,
        "phi_kwargs": encoder,
        "buffer_size": 2_000,
        "overlap": overlap,
    }
    tiny |= {"learning_starts": 32, "gradient_steps": 2, "train_freq": 8, "batch_size": 8, "n_envs": 2}
    fast: dict[str, object] = {"bfloat16": True, "tf32": True, "cudnn_deterministic": False, "overlap": overlap}
    change = (tiny if args.quick else fast) | args.change
    name = env_id.split("/")[-1]
    command = [str(HERE / "train.py"), "--env", env_id, "--device", args.device, "--out", str(args.out / name)]
    command += ["--change", repr(change), "--checkpoint-minutes", str(args.checkpoint_minutes)]
    command += ["--minutes", f"{max((seconds - LANDING) / 60, 0.2):.2f}"]
    command += ["--eval-freq", "200", "--eval-skills", "2", "--steps", "400"] if args.quick else []
    return Part(f"train_{name}", command, seconds, {"MUJOCO_GL": gl})


def train(args: argparse.Namespace, env_id: str, end: float) -> None:
    """
    Train; if that dies at once, in the other way.

    :param args: of the command line
    :param env_id: the environment
    :param end: when it must be done
    """
    path = args.out / "parts.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    drawn = [
        name.split("_")[1]
        for name, x in known.items()
        if name.startswith("environments_") and x["ended"] == "exit status 0"
    ]
    usable = [gl for gl in args.gl if drawn.count(gl) == max(map(drawn.count, args.gl))] or args.gl
    for gl, overlap in ((usable[0], True), (usable[-1], False)):
        left = end - time.monotonic()
        part = make_training(args, env_id, gl, overlap, left)
        begun = time.monotonic()
        ended = part.run(args.out, left)
        if ended == "exit status 0" or time.monotonic() - begun > 0.5 * left:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0, help="for everything")
    parser.add_argument("--envs", nargs="+", default=["sb3_metra/QuadrupedPixels-v0"], help="to train in, one by one")
    parser.add_argument("--device", default="cuda")
    chosen = os.environ.get("MUJOCO_GL")
    parser.add_argument("--gl", nargs="+", default=[chosen] if chosen else ["egl", "osmesa"], help="ways to draw")
    parser.add_argument("--change", type=ast.literal_eval, default={}, help="settings of training, as a Python dict")
    parser.add_argument("--checkpoint-minutes", type=float, default=4.0, help="between two; replay may take gigabytes")
    parser.add_argument("--quick", action="store_true", help="everything, but tiny, to try the script")
    parser.add_argument("--only", nargs="+", help="names of parts to run, such as train_QuadrupedPixels-v0")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    for part in make_parts(args):
        if not args.only or part.name in args.only:
            part.run(args.out, end - time.monotonic())
    envs = [env_id for env_id in args.envs if not args.only or f"train_{env_id.split('/')[-1]}" in args.only]
    for i, env_id in enumerate(envs):
        now = time.monotonic()
        train(args, env_id, now + (end - now) / (len(envs) - i))


if __name__ == "__main__":
    main()
