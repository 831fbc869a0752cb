"""Several processes as one run: how they find each other, agree, and learn that one of them is gone.

JAX's distributed runtime does all of it: its coordinator is process 0, and its collectives carry what is agreed. Here
is only when to start it, and which of its failures means what.
"""

import errno
import hashlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from albert_jax.errors import UserError

HEARTBEAT_SECONDS = 60
"""A process that has not been heard of for so long is taken for dead, and the others end. Where the others wait for it
in a collective over TCP, one that was killed is noticed at once."""
MEETING_SECONDS = 300
"""How long a process waits for all others at the start."""
EXIT_PEER_LOST = 75
"""Exit code where another process is gone: the system's "temporary failure, try again"."""
MESSAGE_BYTES = 2048
AGREED = "all processes know"


@dataclass(frozen=True)
class DistributedOptions:
    """Which process of a run on several this is. Under SLURM, Open MPI and on TPU pods it is found out without them."""

    coordinator_address: str | None = None
    """host:port at which process 0 can be reached, the same for all processes."""
    num_processes: int | None = None
    process_id: int | None = None
    """0 to num_processes - 1."""

    def __post_init__(self) -> None:
        given = {f"--distributed.{name}": value for name, value in vars(self).items()}
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise UserError(f"{missing[0]}: is missing; {', '.join(given)} go together, or are all left out")
        if missing:
            return
        host, _, port = self.coordinator_address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise UserError(
                f"--distributed.coordinator_address = {self.coordinator_address!r}: must be host:port, the port from 1 "
                "to 65535"
            )
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--distributed.process_id = {self.process_id}: must be 0 to {self.num_processes - 1}, "
                f"below --distributed.num_processes = {self.num_processes}"
            )


def start(options: DistributedOptions) -> None:
    """Meets the other processes, if there are any. To be called before anything else of JAX."""
    arguments = vars(options) | {"cluster_detection_method": "deactivate"}
    if options.num_processes is None:
        if not launched_together():
            return
        arguments = {"local_device_ids": _devices_of_a_node()}
    elif options.process_id == 0:
        _require_port(options.coordinator_address)
    try:
        jax.distributed.initialize(
            **arguments, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=MEETING_SECONDS
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise UserError(
            f"the processes of this run did not meet within {MEETING_SECONDS} s ({reason}); start all of them, with "
            "the same coordinator address and number of processes, and see that its port can be reached"
        ) from error


def _require_port(address: str) -> None:
    """JAX crashes where another program has the port, and meets another run's processes where it is another run."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", int(address.rpartition(":")[2])), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(
                f"--distributed.coordinator_address = {address}: process 0 cannot listen there "
                f"({os.strerror(error.errno)}); give another port to all processes"
            ) from error


def launched_together() -> bool:
    """Whether a launcher that JAX knows has started several processes, of which this is one."""
    if "SLURM_STEP_NODELIST" in os.environ:  # within srun, not the batch script around it
        return int(os.environ.get("SLURM_NTASKS", "1")) > 1
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return int(os.environ["OMPI_COMM_WORLD_SIZE"]) > 1
    # GKE names the workers; a VM of Google's learns from its metadata server, which JAX asks, whether it has others.
    if "TPU_WORKER_HOSTNAMES" in os.environ:
        return "," in os.environ["TPU_WORKER_HOSTNAMES"]
    on_tpu_vm = find_spec("libtpu") is not None and any(Path("/dev").glob("accel[0-9]*"))
    return on_tpu_vm and "TPU_SKIP_MDS_QUERY" not in os.environ


def _devices_of_a_node() -> list[int] | None:
    """Under SLURM JAX gives each process one GPU of its node; with one process a node that must be all of them."""
    tasks, gpus = os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""), os.environ.get("SLURM_GPUS_ON_NODE", "")
    one_task_each = tasks.partition("(")[0] == "1"
    return list(range(int(gpus))) if one_task_each and gpus.isdigit() else None


def is_first() -> bool:
    """Whether this is the process that writes records and speaks for the run."""
    return jax.process_index() == 0


@contextmanager
def failing_together(kind: type[UserError] = UserError) -> Iterator[None]:
    """A block that each process runs for itself; where it raises an error of this `kind` in one it does in all of them,
    so that none waits for another. Nothing collective may be within."""
    failure = None
    try:
        yield
    except kind as error:
        failure = error
    messages = share_text(str(failure) if failure else "")
    for process, message in enumerate(messages):
        if message:
            error = failure or kind(f"process {process} of {len(messages)} cannot go on: {message}")
            error.add_note(AGREED)
            raise error


def share_text(text: str) -> list[str]:
    """What every process gave, in their order; beyond `MESSAGE_BYTES` it is cut off."""
    if jax.process_count() == 1:
        return [text]
    data = np.zeros(MESSAGE_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode()[:MESSAGE_BYTES], np.uint8)
    data[: len(encoded)] = encoded
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in multihost_utils.process_allgather(data)]


def require_same(values: dict[str, Any]) -> None:
    """Raises `UserError` in all processes where one has another value of something than process 0."""
    marks = {name: hashlib.sha256(f"{name}={value!r}".encode()).hexdigest()[:12] for name, value in values.items()}
    first = share_text(" ".join(marks.values()))[0].split()
    with failing_together():
        for name, mark in marks.items():
            if mark not in first:
                raise UserError(
                    f"{name} = {values[name]}: is another in process 0; start all processes with the same "
                    "configuration and options, on the same versions and data"
                )


def of_first(value: int) -> int:
    """What process 0 gave."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


@contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process at once where it fails in a way that the others do not know of, so that they notice, and where
    it fails because another is gone. Waiting for the others, as JAX does at the end of a program, would take minutes.
    Errors that all have agreed on (see `failing_together`) pass."""
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or AGREED in getattr(error, "__notes__", ()):
            raise
        who = f"process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, UserError | KeyboardInterrupt):
            print(f"error: {who}: {error or 'interrupted'}", file=sys.stderr)
            code = 2 if isinstance(error, UserError) else 130
        elif _is_lost_peer(error):
            reason = str(error).strip().splitlines()[0][:300]
            print(
                f"error: {who}: another process of this run is gone or out of reach ({reason}). Start all of them "
                "again: the run continues from its latest checkpoint",
                file=sys.stderr,
            )
            code = EXIT_PEER_LOST
        else:
            print(f"{who}:\n{traceback.format_exc()}", file=sys.stderr)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _is_lost_peer(error: BaseException) -> bool:
    signs = ("gloo", "connection", "peer", "heartbeat", "unavailable", "deadline", "barrier", "nccl", "socket")
    return isinstance(error, jax.errors.JaxRuntimeError) and any(sign in str(error).lower() for sign in signs)
