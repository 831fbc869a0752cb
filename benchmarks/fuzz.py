"""Throws damaged files at every reader: `python benchmarks/fuzz.py --inputs 100000`.

A reader may accept a file or refuse it with a `UserError` that names it. All else is a finding: another exception, a
crash, a message that is endless or commands the terminal, two seconds of the processor or 256 MiB more than valid
files take, a file opened outside the reader's folder or written anywhere, a process started. Each reader has a process
of its own, in which libFuzzer (atheris, the extra "fuzz") keeps and damages further what reaches new code; should it
crash or hang, another follows. Findings lie in build/fuzz/READER with the command that repeats them; with any, the
exit code is 1."""

import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz_readers import READERS
from fuzz_worker import MEMORY_EXIT, STATE, keep_finding
from sides import write_results

from albert_jax.errors import UserError, exit_cleanly

WORKER = Path(__file__).with_name("fuzz_worker.py")
MOST_PROCESSES = 100  # of a reader that crashes again and again
PATIENCE = 20.0  # seconds of one input, of the processor; waiting, five times as long


@dataclass(frozen=True)
class Arguments:
    """Throws damaged files at readers."""

    inputs: int = 10_000
    """Files for each reader."""
    seconds: float | None = None
    """Instead, so long for each reader, without its start."""
    readers: tuple[str, ...] = ()
    """Names of those to try; all that can be imported by default."""
    seed: int = 0
    """Changes which files."""
    folder: Path = Path("build/fuzz")
    """For findings, and the files that reached new code. A reader's own folder in it is emptied first."""
    output: Path = Path("build/fuzz.json")


@dataclass
class Result:
    """What came of one reader."""

    reader: str
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    edges_of_valid: int = 0
    """of the package's code, as libFuzzer counts them"""
    edges: int = 0
    slowest_ms: float = 0.0
    processes: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)
    """what is wrong, and the command that repeats it"""


def main() -> int:
    import tyro

    arguments = tyro.cli(Arguments, description=__doc__, use_underscores=True)
    if unknown := [name for name in arguments.readers if name not in READERS]:
        raise UserError(f"readers = {', '.join(unknown)}: there are {', '.join(READERS)}")
    if arguments.inputs < 1 or (arguments.seconds is not None and arguments.seconds <= 0):
        raise UserError("inputs and seconds: must be above 0")
    if find_spec("atheris") is None:
        raise UserError('atheris is not installed, which chooses the inputs: pip install -e ".[fuzz]"')
    results = []
    for name in arguments.readers or READERS:
        if not READERS[name].available:
            print(f"{name}: left out, needs {READERS[name].needs}", flush=True)
            continue
        result = fuzz_reader(name, arguments)
        results.append(result)
        print(f"{name}: {result.inputs:,} inputs, {len(result.findings)} findings", flush=True)
        write_results(arguments.output, {"seed": arguments.seed, "readers": [asdict(one) for one in results]})
    print_table(results)
    print(f"written to {arguments.output}")
    return 1 if any(result.findings for result in results) else 0


def fuzz_reader(name: str, arguments: Arguments) -> Result:
    """One process after the other, until there were inputs enough."""
    home = (arguments.folder / name).resolve()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    result = Result(name)
    while result.processes < MOST_PROCESSES:
        limit = f"-runs={arguments.inputs - result.inputs}"
        if arguments.seconds is not None:
            limit = f"-max_total_time={max(1, round(arguments.seconds - result.seconds))}"
        (home / "state").unlink(missing_ok=True)
        log = home / f"log-{result.processes}.txt"
        seed = 1 + 1000 * arguments.seed + result.processes
        command = [sys.executable, str(WORKER), name, str(home), limit, str(seed)]
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | VARIABLES)
            try:
                hung = wait(process, home / "state")
            finally:
                process.kill()
                process.wait()
        ended, current = read_state(home / "state")
        if (home / "folder").exists():
            shutil.rmtree((home / "folder").read_text(), ignore_errors=True)
        text = log.read_text(errors="replace")
        if not ended[0]:
            raise UserError(f"{name}: its process did not begin, see {log}")
        if hung:
            keep_finding(home, "hangs", current)
        elif process.returncode not in (0, MEMORY_EXIT):
            keep_finding(home, f"crash: {crash_of(text, process.returncode)}", current)
        result.inputs += ended[0]
        result.refused += ended[1]
        result.slowest_ms = max(result.slowest_ms, ended[3])
        result.seconds += ended[4]
        result.processes += 1
        edges = [int(found) for found in re.findall(r"cov: (\d+)", text)]
        if edges:
            result.edges_of_valid = result.edges_of_valid or edges[0]
            result.edges = max(result.edges, *edges)
        enough = result.seconds >= arguments.seconds - 1 if arguments.seconds else result.inputs >= arguments.inputs
        if enough or (process.returncode == 0 and not hung):
            break
    lines = (home / "findings.jsonl").read_text().splitlines() if (home / "findings.jsonl").exists() else []
    result.findings = list({found["what"]: found for found in map(json.loads, lines)}.values())
    return result


VARIABLES = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HF_HUB_OFFLINE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OMP_NUM_THREADS": "1",
}


def wait(process: subprocess.Popen, state: Path) -> bool:
    """Until it ends, or is at one input for too long. Whether it is."""
    inputs, since, used = 0, time.monotonic(), 0.0
    while process.poll() is None:
        time.sleep(0.1)
        now = read_state(state)[0][0]
        if now != inputs:
            inputs, since, used = now, time.monotonic(), processor_time(process.pid)
        patience = PATIENCE if inputs else 10 * PATIENCE  # to start, and import what there is
        if processor_time(process.pid) - used > patience or time.monotonic() - since > 5 * patience:
            return True
    return False


def processor_time(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_state(path: Path) -> tuple[tuple, bytes]:
    """What the process last wrote: the fields of STATE, and the input it was at."""
    if not path.exists() or not path.stat().st_size:
        return (0, 0, 0, 0.0, 0.0), b""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as state:
        fields = STATE.unpack_from(state, 0)
        return fields, state[STATE.size : STATE.size + fields[2]]


def crash_of(log: str, code: int) -> str:
    """The first line that says why, or the exit code."""
    found = re.search("(Fatal Python error: .*|Check failed: .*|terminate called .*|ERROR: libFuzzer: .*)", log)
    frame = re.search(r'^ *File "(\S+)", line (\d+) in (\w+)', log, re.MULTILINE)
    place = f" at {Path(frame[1]).name}:{frame[2]} in {frame[3]}" if frame else ""
    return (found[1][:200] if found else f"exit code {code}") + place


def print_table(results: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for title in ("reader", "inputs", "inputs/s", "refused", "edges of valid", "edges", "slowest ms", "findings"):
        table.add_column(title, justify="left" if title == "reader" else "right")
    for one in results:
        share, speed = one.refused / max(1, one.inputs), one.inputs / max(one.seconds, 1e-3)
        figures = f"{one.inputs:,}", f"{speed:,.0f}", f"{share:.0%}", f"{one.edges_of_valid:,}", f"{one.edges:,}"
        table.add_row(one.reader, *figures, f"{one.slowest_ms:,.0f}", str(len(one.findings)))
    inputs, findings = sum(one.inputs for one in results), sum(len(one.findings) for one in results)
    table.add_section()
    table.add_row("all", f"{inputs:,}", *[""] * 5, str(findings))
    Console(width=120).print(table)
    for one in results:
        for found in one.findings:
            print(f"{one.reader}: {found['what']}\n    {found['repeat']}")


if __name__ == "__main__":
    exit_cleanly(main)
