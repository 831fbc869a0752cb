"""A run that moves from every fleet to every other: `python benchmarks/fleets.py`.

Fleets are so many processes with so many host-platform devices each: 1 x 1, 1 x 8, 2 x 4 and 4 x 2. Each trains a
small model to the end; then its last checkpoint is taken away, and each of the other fleets continues from the one
before. The devices are divided into data x fsdp x tensor in another way each time, drawn by `--seed`. The record of
every run is compared with that of one process on one device: what was in the batches exactly, losses and norms to
1e-5.
"""

import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos import Fleet, prepare
from sides import cores, write_results

from albert_jax.errors import exit_cleanly
from albert_jax.tracking import duration, read_metrics

FLEETS = ((1, 1), (1, 8), (2, 4), (4, 2))
STEPS, SAVED_EVERY = 40, 20
RUN = ("--phases.steps", str(STEPS // 2), str(STEPS // 2), "--checkpoint_every", str(SAVED_EVERY), "--log_every", "5")
IN_BATCHES = ("mask_rate", "padding", "swapped", "mask_replaced", "random_replaced", "kept", "ngram_1", "ngram_2")
COMPUTED = ("loss", "mlm_loss", "sop_loss", "gradient_norm")
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Arguments:
    """Moves a run between fleets, and compares."""

    seed: int = 0
    output: Path = Path("build/fleets.json")


def factorisation(devices: int, chance: random.Random) -> tuple[int, int, int]:
    """data x fsdp x tensor."""
    sizes = [size for size in (1, 2, 4, 8) if size <= devices]
    ways = [(devices // (f * t), f, t) for f in sizes for t in sizes if f * t <= devices]
    return chance.choice(ways)


def compare(folder: Path, reference: Path) -> tuple[float, list[str]]:
    """The largest difference of a loss or norm, relative to its size where that is above 1; and what is wrong."""
    ours, theirs = (
        {(one["step"], "held_out/loss" in one): one for one in read_metrics(run)} for run in (folder, reference)
    )
    if ours.keys() != theirs.keys():
        return float("inf"), [f"steps recorded: {sorted(ours)} instead of {sorted(theirs)}"]
    worst, wrong = 0.0, []
    for key, expected in theirs.items():
        for name, value in expected.items():
            part, _, what = name.partition("/")
            found = ours[key].get(name)
            if part not in ("train", "held_out") or what not in IN_BATCHES + COMPUTED:
                continue
            difference = abs(found - value) / max(1.0, abs(value)) if found is not None else float("inf")
            if what in IN_BATCHES and found != value:
                wrong.append(f"step {key[0]}, {name}: {found} instead of {value}")
            elif what in COMPUTED:
                worst = max(worst, difference)
                if difference > TOLERANCE:
                    wrong.append(f"step {key[0]}, {name}: {found} instead of {value}")
    return worst, wrong


def main() -> int | None:
    import tyro

    arguments = tyro.cli(Arguments, use_underscores=True)
    chance, begun = random.Random(arguments.seed), time.monotonic()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="fleets_") as place:
        work = Path(place)
        source: Path | None = None

        def run(name: str, fleet: tuple[int, int], before: Path | None) -> Path:
            nonlocal source
            processes, devices = fleet
            folder = prepare(work / name, source)
            source = source or folder
            if before is not None:
                shutil.copytree(before / "run", folder / "run")
                shutil.rmtree(folder / "run" / "checkpoints" / str(STEPS))
            data, fsdp, tensor = factorisation(processes * devices, chance)
            options = (*RUN, "--mesh.fsdp", str(fsdp), "--mesh.tensor", str(tensor))
            started = Fleet(folder, processes, work / "programs", devices, options)
            started.start()
            codes, output = started.wait(600), started.output()
            worst, wrong = compare(folder / "run", work / "1x1" / "run")
            if codes != [0] * processes:
                wrong.append(f"ended with {codes}: {output}")
            if before is not None and f"continued from step {SAVED_EVERY}" not in output:
                wrong.append(f"not continued: {output}")
            rows.append(dict(run=name, mesh=f"{data} x {fsdp} x {tensor}", largest_difference=worst, wrong=wrong))
            print(
                f"{name:16}{rows[-1]['mesh']:>12}{worst:>12.1e}  {'as one process' if not wrong else wrong}", flush=True
            )
            return folder

        print(f"{'fleet':16}{'mesh':>12}{'difference':>12}")
        first = {fleet: run(f"{fleet[0]}x{fleet[1]}", fleet, None) for fleet in FLEETS}
        for before in FLEETS:
            for after in FLEETS:
                if after != before:
                    run(f"{before[0]}x{before[1]}_to_{after[0]}x{after[1]}", after, first[before])
    print(f"in {duration(time.monotonic() - begun)}")
    write_results(arguments.output, dict(seed=arguments.seed, cores=cores(), tolerance=TOLERANCE, runs=rows))
    return 1 if any(row["wrong"] for row in rows) else None


if __name__ == "__main__":
    exit_cleanly(main)
