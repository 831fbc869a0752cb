"""The process in which `fuzz.py` has one reader read damaged files: libFuzzer, through atheris, chooses what to damage
by the code it reaches. `python benchmarks/fuzz_worker.py READER --repeat FILE` reads one file again and says what comes
of it, without either."""

import faulthandler
import hashlib
import json
import mmap
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz_readers import READERS, Reader

from albert_jax.errors import LONGEST_MESSAGE, UserError

ROOT = Path(__file__).resolve().parents[1]
STATE = struct.Struct("<QQQdd")
"""inputs, those refused, bytes of the present one, milliseconds of the slowest, seconds since the first"""
LONGEST_INPUT = 2**19
MOST_SECONDS, MOST_MEMORY = 2.0, 256 * 2**20  # of one input, beyond what the valid files take; of the processor
MEMORY_EXIT = 70
ADDRESS_SPACE = 4 * 2**30  # beyond what the valid files take; what asks for more gets a MemoryError
FORBIDDEN = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pickle.find_class",
}
FORBIDDEN |= {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate"}


class Trial:
    """A reader before one file after the other, and what must not happen on the way."""

    def __init__(self, reader: Reader, folder: Path):
        self.reader, self.folder = reader, folder
        self.file = folder / reader.file
        self.readable = (str(folder), str(ROOT), sys.prefix, sys.base_prefix, "/proc/", "/dev/null", "/dev/urandom")
        self.readable += tuple(path for path in sys.path if "site-packages" in path)
        self.watching = False
        self.broken: list[str] = []
        self.slowest = 0.0
        reader.build(folder)
        self.seeds = [self.file.read_bytes(), *reader.more_seeds]
        for seed in self.seeds:
            self.file.write_bytes(seed)
            reader.read(folder)  # a valid file must be accepted; it also imports what there is to import
        start = time.process_time()
        reader.read(folder)
        self.patience = MOST_SECONDS + 2 * (time.process_time() - start)  # to make a model JAX compiles, each time
        sys.addaudithook(self._audit)
        if os.access("/proc/self/clear_refs", os.W_OK):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from now on
        self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, _, flags = arguments
            path = os.path.abspath(os.fsdecode(path))
            writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or not path.startswith(self.readable):
                self.broken.append(f"{'writes' if writes else 'opens'} {path}")
        elif event in FORBIDDEN:
            self.broken.append(f"{event} {arguments!r:.200}")

    def run(self, data: bytes) -> tuple[bool, str | None]:
        """Whether a file was refused, and what is wrong with how it was read."""
        self.file.write_bytes(data)
        self.broken.clear()
        refused, wrong = False, None
        start = time.process_time()
        self.watching = True
        try:
            self.reader.read(self.folder)
        except UserError as error:
            refused, wrong = True, self._wrong_message(str(error))
        except (Exception, SystemExit) as error:
            wrong = f"{type(error).__name__} {_place(error)}"
        finally:
            self.watching = False
        seconds = time.process_time() - start
        self.slowest = max(self.slowest, seconds)
        if self.broken:
            wrong = self.broken[0]
        elif seconds > self.patience:
            wrong = f"takes long, {seconds:.0f} s"
        return refused, wrong

    def _wrong_message(self, message: str) -> str | None:
        if str(self.folder) not in message:
            return "message does not name the file"
        if len(message) > LONGEST_MESSAGE:
            return "message is long"
        if message.count("\n") > 20 or not all(c.isprintable() or c in "\n\t" for c in message):
            return "message is not printable"
        return None

    def memory_grown(self) -> int:
        """Bytes beyond what the valid files took."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.memory


def _place(error: BaseException) -> str:
    """Where in the package it was raised or passed through last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if str(ROOT) in frame.filename and "fuzz" not in frame.filename] or list(frames)
    return f"{os.path.relpath(ours[-1].filename, ROOT)}:{ours[-1].lineno} in {ours[-1].name}"


def fuzz(trial: Trial, home: Path, limit: str, seed: int) -> None:
    """Does not return: libFuzzer ends the process. `limit` is its option for when."""
    import atheris

    (home / "state").write_bytes(bytes(STATE.size + LONGEST_INPUT))
    state = mmap.mmap(os.open(home / "state", os.O_RDWR), 0)
    known: set[str] = set()
    counts = [0, 0]
    started = 0.0

    def one(data: bytes) -> None:
        nonlocal started
        started = started or time.monotonic()
        counts[0] += 1
        state[STATE.size : STATE.size + len(data)] = data
        now = time.monotonic() - started
        STATE.pack_into(state, 0, counts[0], counts[1], len(data), trial.slowest * 1000, now)
        refused, wrong = trial.run(data)
        counts[1] += refused
        exhausted = trial.memory_grown() > MOST_MEMORY
        if exhausted:
            wrong = "takes much memory"
        if wrong and wrong not in known:
            known.add(wrong)
            keep_finding(home, wrong, data)
        if exhausted:
            STATE.pack_into(state, 0, counts[0], counts[1], len(data), trial.slowest * 1000, now)
            os._exit(MEMORY_EXIT)

    def mutate(data: bytes, longest: int, number: int) -> bytes:
        rng = random.Random(number)
        if trial.reader.mutate is not None and rng.random() < 0.6:
            damaged = trial.reader.mutate(rng, data)
            if len(damaged) <= longest:
                return damaged
        return atheris.Mutate(data, longest)

    corpus = home / "corpus"
    corpus.mkdir(exist_ok=True)
    for content in trial.seeds:
        (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)
    options = [limit, f"-seed={seed}", f"-max_len={LONGEST_INPUT}", "-len_control=0"]
    options += ["-rss_limit_mb=0", "-timeout=1000000"]  # both are watched here, and by who started this
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={home}/", str(corpus)], one, custom_mutator=mutate)
    faulthandler.enable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
    atheris.Fuzz()


def keep_finding(home: Path, wrong: str, data: bytes) -> None:
    """Saves an input, and appends what is wrong with it to findings.jsonl."""
    path = home / f"{hashlib.sha1(wrong.encode()).hexdigest()[:10]}.input"
    path.write_bytes(data)
    repeat = f"python benchmarks/fuzz_worker.py {home.name} --repeat {path}"
    with open(home / "findings.jsonl", "a") as file:
        file.write(json.dumps({"what": wrong, "repeat": repeat}) + "\n")


def main() -> None:
    reader = READERS[sys.argv[1]]
    # In memory, if there is such a place: the disk is not what is tried.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=place))
    inside = folder / "folder"
    inside.mkdir()
    if sys.argv[2] == "--repeat":
        try:
            trial = Trial(reader, inside)
            refused, wrong = trial.run(Path(sys.argv[3]).read_bytes())
            try:
                reader.read(inside)
            except Exception:
                traceback.print_exc()
            print(
                f"{'refused' if refused else 'not refused'}, wrong: {wrong or 'nothing'}, {trial.slowest:.3f} s, ",
                end="",
            )
            print(f"memory grew by {trial.memory_grown() / 2**20:,.0f} MiB")
        finally:
            shutil.rmtree(folder)
        return
    home, limit, seed = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    (home / "folder").write_text(str(folder))  # for who removes it: this process does not end in an orderly way
    import atheris

    with atheris.instrument_imports(include=["albert_jax", "data"]):
        trial = Trial(reader, inside)
    fuzz(trial, home, limit, seed)


if __name__ == "__main__":
    main()
