"""Interrupts a small run again and again, and sees whether it ends like the one that was left alone:
`python benchmarks/chaos.py`.

Three runs of the same configuration are each done once in peace and once with interruptions at random moments, until
there were as many as asked for: one process; two processes with one device each; and one process on a file system of
12 MB that is filled and emptied again (where this user may mount one). What is done: SIGKILL and SIGTERM to a process,
while it starts, trains, saves or evaluates; SIGKILL or SIGTERM to one of two processes; filling the disk. After each
the same command is given again. At the end parameters, moments and step are compared bit for bit with the run in
peace, and so is the record of losses. Processes wait for each other at the start for 1 minute here, not for 5.

Then checkpoints of the finished run are damaged, one at a time (a byte flipped, a file cut short, deleted or swapped
with another checkpoint's), and shards of the corpus too, and the run is continued: it has to find the damage, and to
end with the same parameters from the checkpoint before, or refuse the shard.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sides import cores, write_results

from albert_jax.checkpoint import Checkpoints
from albert_jax.errors import exit_cleanly
from albert_jax.tracking import duration, read_metrics

ROOT = Path(__file__).resolve().parents[1]
STEPS, SAVED_EVERY, EVALUATED_EVERY = 400, 25, 40
CONFIG = f"""
from albert_jax.config import *

def get_config():
    return PretrainConfig(
        run_dir="run",
        data=DataConfig(sources=({str(ROOT / "data" / "sample")!r} + "/*.txt",), tokenizer="vocab/spiece.model",
                        corpus=("corpus",), held_out_fraction=0.1),
        model=AlbertConfig(vocab_size=2000, embedding_size=16, hidden_size=32, num_hidden_layers=2,
                           num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
                           hidden_dropout_prob=0.1),
        phases=PhasesConfig(steps=({STEPS // 2}, {STEPS // 2}), sequence_length=(32, 64), batch_size=(8,)),
        optimizer=OptimizerConfig(peak_learning_rate=0.005, warmup_steps=40),
        compute=ComputeConfig(dtype="float32", remat="none"),
        log_every=20, evaluate_every={EVALUATED_EVERY}, evaluate_sequences=64, checkpoint_every={SAVED_EVERY},
        keep_checkpoints=3, disk_pause_minutes=5,
    )
"""
START = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
from albert_jax import distributed
distributed.MEETING_SECONDS = 60
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TIMED = "speed/"
"""Of the record, what a clock or the machine decides."""


@dataclass(frozen=True)
class Arguments:
    """Interrupts a run, damages its files, and compares."""

    interruptions: int = 100
    """In all, dealt out to the runs."""
    damages: int = 50
    seed: int = 0
    output: Path = Path("build/chaos.json")


class Fleet:
    """The processes of one run, with so many host-platform devices each, started anew after each interruption."""

    def __init__(self, folder: Path, count: int, programs: Path, devices: int = 1, options: tuple[str, ...] = ()):
        self.folder, self.count, self.programs, self.devices, self.options = folder, count, programs, devices, options
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        address = f"127.0.0.1:{random.randrange(20_000, 60_000)}"
        variables = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.devices}",
            "JAX_COMPILATION_CACHE_DIR": str(self.programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        for number in range(self.count):
            together = (
                *("--distributed.coordinator_address", address, "--distributed.num_processes", str(self.count)),
                *("--distributed.process_id", str(number)),
            )
            command = [sys.executable, "-c", START, str(ROOT / "pretrain.py"), "config.py", *self.options]
            command += together if self.count > 1 else ()
            with (self.folder / f"output_{number}.txt").open("wb") as output:
                self.processes.append(
                    subprocess.Popen(command, cwd=self.folder, env=variables, stdout=output, stderr=subprocess.STDOUT)
                )

    def wait(self, seconds: float) -> list[int] | None:
        """Exit codes once all have ended; None if they have not within `seconds`."""
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)
        codes = [process.returncode for process in self.processes]
        self.processes = []
        return codes

    def output(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("output_*.txt")))


def reached(folder: Path) -> int:
    """The last step with a record."""
    return max((record["step"] for record in read_metrics(folder / "run")), default=-1)


def finished(folder: Path) -> bool:
    log = folder / "run" / "log.txt"
    return log.exists() and "finished " in log.read_text()


def wait_for_moment(fleet: Fleet, moment: str, chance: random.Random) -> bool:
    """Until the run is in the midst of what `moment` names; False if it ended before."""
    before = reached(fleet.folder)
    deadline = time.monotonic() + 120
    pause = chance.random()

    def there() -> bool:
        if moment == "saving":
            return any((fleet.folder / "run" / "checkpoints").glob("*tmp*"))
        if moment == "evaluating":
            last = reached(fleet.folder)
            return last > before and last % EVALUATED_EVERY == 0
        return reached(fleet.folder) > before

    if moment == "starting":
        return fleet.wait(pause * 8) is None
    while not there():
        if fleet.wait(0.002) is not None or time.monotonic() > deadline:
            return False
    return fleet.wait(pause * 0.3 if moment == "training" else pause * 0.01) is None


def torment(folder: Path, count: int, interruptions: int, programs: Path, chance: random.Random, disk: bool) -> dict:
    """Runs to the end with so many interruptions; a run that ends too early for them begins again."""
    fleet, done, bad, rounds = Fleet(folder, count, programs), Counter[str](), [], 0
    slowest_end = 0.0
    while True:
        fleet.start()
        moment = chance.choice(("starting", "training", "training", "saving", "evaluating"))
        if sum(done.values()) < interruptions and wait_for_moment(fleet, moment, chance):
            what = chance.choice(("SIGKILL", "SIGTERM", "full disk") if disk else ("SIGKILL", "SIGTERM"))
            name = f"{what} while {moment}"
            begun = time.monotonic()
            if what == "full disk":
                fill_for_a_while(folder, fleet)
            else:
                fleet.processes[chance.randrange(count)].send_signal(getattr(signal, what))
            codes = fleet.wait(300)
            if codes is None:
                bad.append(f"{name}: hangs\n{fleet.output()}")
                for process in fleet.processes:
                    process.kill()
                fleet.wait(10)
            elif what != "full disk":
                slowest_end = max(slowest_end, time.monotonic() - begun)
            done[name] += 1
            if "Traceback" in fleet.output():
                bad.append(f"{name}: {fleet.output()}")
        else:
            codes = fleet.wait(600)
            if codes is None or any(codes):
                bad.append(f"undisturbed, {codes}: {fleet.output()}")
                if codes is None:
                    for process in fleet.processes:
                        process.kill()
                    fleet.wait(10)
            if len(bad) > 10:
                break
        if finished(folder):
            rounds += 1
            if sum(done.values()) >= interruptions:
                break
            keep = folder / f"finished_{rounds}"
            keep.mkdir()
            for path in (folder / "run").iterdir():  # `run` itself may be a mounted disk
                shutil.move(path, keep / path.name) if not disk else remove(path)
    return dict(interruptions=dict(done), rounds=rounds, slowest_end_seconds=slowest_end, bad=bad)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill_for_a_while(folder: Path, fleet: Fleet) -> None:
    """Fills the disk of the run for two seconds or so."""
    ballast = folder / "run" / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**14, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                continue
    fleet.wait(2.0)
    ballast.unlink()


def state(folder: Path) -> dict[str, np.ndarray]:
    def flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
        if not isinstance(tree, dict):
            return {prefix: np.asarray(tree)}
        return {name: leaf for key, part in tree.items() for name, leaf in flat(part, f"{prefix}/{key}").items()}

    return flat(Checkpoints(folder / "checkpoints").load(STEPS))


def differences(folder: Path, reference: Path) -> list[str]:
    """What is not bit for bit as in the run in peace: leaves of the state, and records."""
    if not (folder / "checkpoints" / str(STEPS)).exists():
        return ["did not come to its end"]
    ours, theirs = state(folder), state(reference)
    found = [name for name, leaf in theirs.items() if not np.array_equal(ours.get(name), leaf)]
    mine, expected = (
        [{name: value for name, value in record.items() if not name.startswith(TIMED)} for record in read_metrics(run)]
        for run in (folder, reference)
    )
    return found + ([] if mine == expected else ["metrics.jsonl"])


def damage(run: Path, corpus: Path, chance: random.Random) -> tuple[str, Path]:
    """Does one thing to one file of the newest checkpoint, or of the corpus; says what, and to which."""
    of_corpus = chance.random() < 0.3
    newest = run / "checkpoints" / str(STEPS)
    files = sorted(corpus.glob("*.*")) if of_corpus else sorted(path for path in newest.rglob("*") if path.is_file())
    files = [path for path in files if path.stat().st_size]
    path = chance.choice([file for file in files if file.name != "manifest.json"])
    kinds = ["flipped", "truncated", "deleted"] + ([] if of_corpus else ["swapped"])
    kind = chance.choice(kinds)
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif kind == "truncated":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "deleted":
        path.unlink()
    else:
        others = [
            file
            for checkpoint in (run / "checkpoints").iterdir()
            if checkpoint.name != str(STEPS)
            for file in checkpoint.rglob("*")
            if file.is_file() and file.read_bytes() != bytes(content)
        ]
        path.write_bytes(chance.choice(others).read_bytes())
    return f"{kind}, {'shard' if of_corpus else 'checkpoint'}", path


def damages(folder: Path, reference: Path, count: int, programs: Path, chance: random.Random) -> dict:
    """Damages copies of a finished run, one thing at a time, and continues each."""
    done, bad = Counter[str](), []
    for number in range(count):
        place = folder / f"damage_{number}"
        place.mkdir()
        for name in ("vocab", "config.py"):
            (place / name).symlink_to(reference.parent / name)
        shutil.copytree(reference.parent / "corpus", place / "corpus")
        shutil.copytree(reference, place / "run")
        kind, path = damage(place / "run", place / "corpus", chance)
        done[kind] += 1
        fleet = Fleet(place, 1, programs)
        fleet.start()
        codes, output = fleet.wait(300), fleet.output()
        name = f"{kind} {path.relative_to(place)}: "
        if "Traceback" in output or codes is None:
            bad.append(name + output)
        elif "shard" in kind:
            if codes != [2] or path.name not in output:
                bad.append(f"{name}not refused by name, {codes}: {output}")
        elif "damaged    " not in output or codes != [0] or differences(place / "run", reference):
            bad.append(f"{name}not found, or not overcome, {codes}: {output}")
        shutil.rmtree(place)
    return dict(damages=dict(done), bad=bad)


def prepare(folder: Path, source: Path | None) -> Path:
    folder.mkdir()
    (folder / "config.py").write_text(CONFIG)
    for name in ("vocab", "corpus"):
        if source is not None:
            (folder / name).symlink_to(source / name)
    return folder


def main() -> int | None:
    import tyro

    arguments = tyro.cli(Arguments, use_underscores=True)
    chance, begun = random.Random(arguments.seed), time.monotonic()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="chaos_") as place:
        work = Path(place)
        programs = work / "programs"
        references = {}
        for count in (1, 2):
            folder = prepare(work / f"peace_{count}", references[1].parent if references else None)
            fleet = Fleet(folder, count, programs)
            fleet.start()
            codes = fleet.wait(600)
            if codes != [0] * count:
                raise SystemExit(f"the run in peace ended with {codes}:\n{fleet.output()}")
            references[count] = folder / "run"
        runs = {"one process": (1, 0.45, False), "two processes": (2, 0.35, False), "a small disk": (1, 0.2, True)}
        results: dict[str, dict] = {}
        for name, (count, share, disk) in runs.items():
            folder = prepare(work / name.replace(" ", "_"), references[1].parent)
            if disk and not mount(folder / "run"):
                results[name] = dict(skipped="this user may not mount a file system", interruptions={}, bad=[])
                continue
            wanted = round(arguments.interruptions * share)
            try:
                results[name] = torment(folder, count, wanted, programs, chance, disk)
                ends = [folder / "run", *folder.glob("finished_*[0-9]")] if not disk else [folder / "run"]
                results[name]["different"] = {
                    end.name: found
                    for end in ends
                    if (end / "checkpoints").exists() and (found := differences(end, references[count]))
                }
            finally:
                if disk:
                    subprocess.run(["umount", "-l", str(folder / "run")], check=True)
            show(name, results[name])
        results["damaged files"] = damages(work, references[1], arguments.damages, programs, chance)
        show("damaged files", results["damaged files"])
    seconds = time.monotonic() - begun
    print(f"in {duration(seconds)}")
    options = {name: str(value) for name, value in asdict(arguments).items()}
    write_results(arguments.output, dict(arguments=options, cores=cores(), seconds=seconds, results=results))
    return 1 if any(result["bad"] or result.get("different") for result in results.values()) else None


def mount(folder: Path) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def show(name: str, result: dict) -> None:
    counts = result.get("interruptions", result.get("damages"))
    print(f"{name}: {sum(counts.values())} in {result.get('rounds', 1)} runs; different: {result.get('different', {})}")
    for what, count in sorted(counts.items()):
        print(f"  {count:>4} {what}")
    if result.get("slowest_end_seconds"):
        print(f"  slowest end of all processes after a signal {result['slowest_end_seconds']:.1f} s")
    for text in result["bad"]:
        print(f"  NOT RIGHT: {text}")


if __name__ == "__main__":
    exit_cleanly(main)
