"""Lets a run go on for hours and sees whether it stays as it was: `python benchmarks/soak.py`.

The sample run, with more steps than fit into the time, trains, evaluates and saves in a process of its own, which is
asked every ten seconds for its resident memory, open files and threads. At the end it gets a SIGTERM. The table has one
line for each twelfth of the time. Memory is what the process itself holds (Linux's RssAnon); pages of mapped files come
and go as the system likes, and are listed beside it. All findings leave out the first twelfth. Memory is flat if the
most that was seen in each twelfth lies within 5 % of the others, and the line through these neither rises nor falls by
1 % an hour. Its median is listed, but not judged: after each evaluation the process gives free memory back, and then
holds one of two amounts until the next, most likely as its first steps find a place for their temporaries in the old
one or beside it. The step time is steady if its medians lie within 10 % of each other; or, since a machine may become
slower, if the last one is less than 10 % above that of a new run, begun at once on the same corpus for some minutes.
Both figures are printed; give the machine the same other work throughout. Open files are constant if their medians are
the same (a save or a read opens more for a moment).
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sides import cores, write_results

from albert_jax.errors import UserError, exit_cleanly
from albert_jax.tracking import duration, read_metrics

ROOT = Path(__file__).resolve().parents[1]
PARTS = 12
STEP_TIME = "speed/seconds_per_step"


@dataclass(frozen=True)
class Arguments:
    """Lets a run go on, and watches it."""

    minutes: float = 120.0
    config: Path = ROOT / "configs" / "pretrain" / "sample.py"
    steps: int = 1_000_000
    """of the run's only phase; it is stopped long before"""
    control_minutes: float = 5.0
    """for the new run"""
    every: float = 10.0
    """seconds between two looks at the process"""
    output: Path = Path("build/soak.json")


@dataclass(frozen=True)
class Look:
    """One look at the process."""

    time: float
    memory: int
    """bytes of its own that are resident"""
    mapped: int
    """resident bytes of mapped files"""
    files: int
    threads: int


def look(process: int) -> Look:
    folder = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    memory, mapped = (1024 * int(status[name].split()[0]) for name in ("RssAnon", "RssFile"))
    files, threads = (len(os.listdir(folder / name)) for name in ("fd", "task"))
    return Look(time.time(), memory, mapped, files, threads)


def watch(arguments: Arguments, place: Path, name: str, minutes: float) -> tuple[list[Look], float]:
    """Starts a run. Looks at it from its first record until the time is up, and the seconds from SIGTERM to its end."""
    command = [sys.executable, str(ROOT / "pretrain.py"), str(arguments.config), "--run_dir", str(place / name)]
    command += ["--phases.steps", str(arguments.steps)]
    command += ["--data.tokenizer", str(place / "vocab" / "spiece.model"), "--data.corpus", str(place / "corpus")]
    output_file = place / f"{name}.txt"
    with output_file.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    looks: list[Look] = []
    try:
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            if process.poll() is not None:
                raise UserError(f"the run ended with {process.returncode}:\n{output_file.read_text()[-3000:]}")
            if looks or read_metrics(place / name):
                looks.append(look(process.pid))
            time.sleep(arguments.every)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if process.wait(300):
            raise UserError(f"after SIGTERM: exit code {process.returncode}")
        return looks, time.monotonic() - begun
    finally:
        process.kill()


def step_times(records: Iterable[dict[str, float]]) -> list[float]:
    return [one[STEP_TIME] for one in records if STEP_TIME in one]


def spread(medians: Iterable[float]) -> float:
    """By how much the largest exceeds the smallest, as a share of it."""
    values = list(medians)
    return max(values) / min(values) - 1


def main() -> int | None:
    import tyro

    arguments = tyro.cli(Arguments, use_underscores=True)
    if arguments.control_minutes < 1:
        raise UserError(f"--control_minutes {arguments.control_minutes}: a new run needs at least 1, to compile first")
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        place = Path(folder)
        looks, seconds_to_end = watch(arguments, place, "run", arguments.minutes)
        record = read_metrics(place / "run")
        stopped = next(line for line in (place / "run" / "log.txt").read_text().splitlines() if "stopped" in line)
        watch(arguments, place, "new", arguments.control_minutes)
        # Its first records have its compilation in them.
        of_new_run = statistics.median(step_times(read_metrics(place / "new"))[2:] or [0.0])
    evaluations = sum("held_out/loss" in one for one in record)
    records = [one for one in record if STEP_TIME in one]
    if len(looks) < 2 * PARTS or len(records) < 2 * PARTS:
        raise UserError(f"--minutes: {len(looks)} looks and {len(records)} records are too few for {PARTS} parts")

    rows = []
    for part in range(PARTS):
        seen, steps = (
            [items[i] for i in range(len(items) * part // PARTS, len(items) * (part + 1) // PARTS)]
            for items in (looks, records)
        )
        rows.append(
            dict(
                minutes=(seen[-1].time - looks[0].time) / 60,
                step=steps[-1]["step"],
                epoch=steps[-1]["data/epoch"],
                memory=statistics.median(one.memory for one in seen),
                most_memory=max(one.memory for one in seen),
                mapped=statistics.median(one.mapped for one in seen),
                files=statistics.median(one.files for one in seen),
                most_files=max(one.files for one in seen),
                threads=statistics.median(one.threads for one in seen),
                step_seconds=statistics.median(step_times(steps)),
                slowest_step=max(one["speed/slowest_step"] for one in steps),
            )
        )
    print(
        f"{'minutes':>8}{'step':>9}{'memory MB':>11}{'most':>9}{'mapped':>9}{'files':>7}{'most':>6}{'threads':>9}"
        f"{'ms/step':>9}{'slowest ms':>12}"
    )
    for row in rows:
        print(
            f"{row['minutes']:8.0f}{row['step']:9,}{row['memory'] / 1e6:11.1f}{row['most_memory'] / 1e6:9.1f}"
            f"{row['mapped'] / 1e6:9.1f}{row['files']:7.0f}{row['most_files']:6}{row['threads']:9.0f}"
            f"{row['step_seconds'] * 1e3:9.1f}{row['slowest_step'] * 1e3:12.1f}"
        )
    most = [row["most_memory"] for row in rows[1:]]
    growth = np.polyfit([row["minutes"] / 60 for row in rows[1:]], most, 1)[0]
    growth_an_hour = growth / statistics.median(most)
    memory, step_time = spread(most), spread(row["step_seconds"] for row in rows[1:])
    beside_new = "the new run was too short to compare with"
    if of_new_run:
        beside_new = f"{rows[-1]['step_seconds'] / of_new_run - 1:+.1%} from a new run's {of_new_run * 1e3:.1f} ms"
    findings = dict(
        memory_flat=bool(abs(growth_an_hour) < 0.01 and memory < 0.05),
        steps_steady=step_time < 0.1 or rows[-1]["step_seconds"] < 1.1 * of_new_run,
        files_constant=len({row["files"] for row in rows[1:]}) == 1,
    )
    print(
        f"most memory {growth / 1e6:+.2f} MB an hour ({growth_an_hour:+.2%}), {memory:.1%} apart; "
        f"step time {step_time:.1%} apart, {beside_new}"
    )
    print(
        f"{records[-1]['data/epoch']:.1f} epochs, {evaluations} evaluations; SIGTERM {seconds_to_end:.1f} s: {stopped}"
    )
    for name, holds in findings.items():
        print(f"{name.replace('_', ' ')}: {'yes' if holds else 'NO'}")
    options = {name: str(value) for name, value in asdict(arguments).items()}
    took = duration(looks[-1].time - looks[0].time)
    results = dict(
        growth_bytes_an_hour=growth,
        evaluations=evaluations,
        seconds_to_end=seconds_to_end,
        parts=rows,
        step_seconds_of_new_run=of_new_run,
        **findings,
    )
    write_results(arguments.output, dict(arguments=options, cores=cores(), duration=took, results=results))
    return None if all(findings.values()) else 1


if __name__ == "__main__":
    exit_cleanly(main)
