"""Checkpoints that are damaged in every way a disk, a kill or a hand can damage them: each is found, named, passed over
for the one before, and nothing is lost by it."""

import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from albert_jax import checkpoint as module
from albert_jax.checkpoint import CHECKSUMS_FILE, Checkpoints, newest_intact, read_params
from albert_jax.errors import UserError

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


def state(step):
    """A small state that is different in every file that differs between two real ones."""
    weights = jax.random.normal(jax.random.key(step), (64, 32))
    return {"params": {"weights": weights, "bias": jnp.full(32, step, jnp.float32)}, "step": jnp.int32(step)}


def save(directory, *steps, losses=None, keep=2):
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(step, state(step), (losses or {}).get(step))
    checkpoints.close()


def assert_state(loaded, step):
    jax.tree.map(np.testing.assert_array_equal, loaded, state(step))


def abstract():
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir())


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_of(folder)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoints of a run, of steps 20 and 30, both with metrics."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    save(directory, 20, 30, losses={20: 0.5, 30: 0.25})
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


# ---- whatever is damaged is found, and what is good is continued from


def truncate(rng, directory, step):
    file = rng.choice([file for file in files_of(directory / str(step)) if file.stat().st_size])
    with file.open("r+b") as opened:
        opened.truncate(rng.randrange(file.stat().st_size))
    return {step}


def flip_a_bit(rng, directory, step):
    file = rng.choice(files_of(directory / str(step)))
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return {step}


def flip_a_bit_of_the_checksums(rng, directory, step):
    file = directory / str(step) / CHECKSUMS_FILE
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return {step}


def delete_a_file(rng, directory, step):
    rng.choice(files_of(directory / str(step))).unlink()
    return {step}


def rename_a_file(rng, directory, step):
    file = rng.choice(files_of(directory / str(step)))
    file.rename(file.with_name(file.name + "_"))
    return {step}


def lengthen_a_file(rng, directory, step):
    with rng.choice(files_of(directory / str(step))).open("ab") as file:
        file.write(b"\0")
    return {step}


def add_a_file(rng, directory, step):
    folder = rng.choice([file.parent for file in files_of(directory / str(step))])
    (folder / "unknown").write_bytes(b"")
    return {step}


def cross(rng, directory, step, both):
    """A file that differs comes from the other checkpoint, whose own goes the other way if `both`."""
    other = 50 - step
    mine, theirs = contents(directory / str(step)), contents(directory / str(other))
    name = rng.choice([name for name in mine if name in theirs and mine[name] != theirs[name]])
    (directory / str(step) / name).write_bytes(theirs[name])
    if both:
        (directory / str(other) / name).write_bytes(mine[name])
    return {20, 30} if both else {step}


def copy_a_file_from_the_other(rng, directory, step):
    return cross(rng, directory, step, both=False)


def swap_two_files(rng, directory, step):
    return cross(rng, directory, step, both=True)


def swap_the_folders(rng, directory, step):
    (directory / "20").rename(directory / "x")
    (directory / "30").rename(directory / "20")
    (directory / "x").rename(directory / "30")
    return {20, 30}


def rename_the_folder(rng, directory, step):
    name = rng.choice(["40", "7", "30_old", "copy", "030", "30.orbax-checkpoint-tmp"])
    (directory / str(step)).rename(directory / name)
    return {step}


def copy_the_folder_over_the_other(rng, directory, step):
    shutil.rmtree(directory / str(step))
    shutil.copytree(directory / str(50 - step), directory / str(step))
    return {step}


CORRUPTIONS = [
    truncate,
    flip_a_bit,
    flip_a_bit_of_the_checksums,
    delete_a_file,
    rename_a_file,
    lengthen_a_file,
    add_a_file,
    copy_a_file_from_the_other,
    swap_two_files,
    swap_the_folders,
    rename_the_folder,
    copy_the_folder_over_the_other,
]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_a_damaged_checkpoint_is_found_and_the_intact_one_taken(directory, corrupt, seed):
    step = (30, 30, 20)[seed % 3]
    damaged = corrupt(random.Random(f"{corrupt.__name__} {seed}"), directory, step)
    before = contents(directory)
    if damaged == {20, 30}:
        with pytest.raises(UserError, match="none of its checkpoints can be continued from"):
            newest_intact(directory)
        assert contents(directory) == before
        return
    found, lines = newest_intact(directory)
    assert found == 50 - step
    assert len(lines) == 1
    assert "\n" not in lines[0] and str(directory) in lines[0], lines
    assert steps_in(directory) == [50 - step]
    moved = contents(directory.parent / "damaged_checkpoints")
    assert len(contents(directory)) + len(moved) == len(before), "nothing is deleted"


@pytest.mark.parametrize("seed", range(24))
def test_training_goes_on_from_the_intact_one(directory, seed):
    """To the end that matters: Orbax opens what is left, loads it, and saves the lost step and another."""
    rng = random.Random(seed)
    single = [corrupt for corrupt in CORRUPTIONS if corrupt not in (swap_two_files, swap_the_folders)]
    step = rng.choice((20, 30))
    rng.choice(single)(rng, directory, step)
    found, _ = newest_intact(directory)
    checkpoints = Checkpoints(directory)
    assert checkpoints.latest_step == found == 50 - step
    assert_state(checkpoints.load(found, abstract()), found)
    if step == 30:
        checkpoints.save(30, state(30), 0.25)
    checkpoints.save(40, state(40), None)
    checkpoints.close()
    assert newest_intact(directory) == (40, [])
    assert 30 in steps_in(directory), "the one before, and the best"


@pytest.mark.parametrize("seed", range(24))
def test_what_is_read_is_never_damaged(directory, seed):
    rng = random.Random(seed)
    corrupt = rng.choice(CORRUPTIONS)
    damaged = corrupt(rng, directory, 30)
    before = contents(directory)
    wanted = {"weights": abstract()["params"]["weights"]}
    if damaged == {20, 30}:
        with pytest.raises(UserError, match="all checkpoints are damaged"):
            read_params(directory, None, wanted)
    else:
        step, params, _ = read_params(directory, None, wanted)
        assert step == 20
        np.testing.assert_array_equal(params["weights"], state(20)["params"]["weights"])
    assert contents(directory) == before


# ---- what is said


def said(directory):
    (line,) = newest_intact(directory)[1]
    return line


def largest(directory):
    return max(files_of(directory / "30"), key=lambda file: file.stat().st_size)


def test_a_truncated_file_is_named_with_its_sizes(directory):
    file = largest(directory)
    size = file.stat().st_size
    os.truncate(file, 10)
    target = directory.parent / "damaged_checkpoints" / "30"
    assert said(directory) == f"{file}: truncated, 10 bytes instead of {size}; passed over, and moved to {target}"


def test_an_altered_file_is_named(directory):
    file = largest(directory)
    file.write_bytes(bytes(file.stat().st_size))
    assert f"{file}: its sha256 is not the recorded one" in said(directory)


def test_a_missing_file_is_named(directory):
    file = largest(directory)
    file.unlink()
    assert f"{file}: is missing" in said(directory)


def test_a_file_of_something_else_is_named(directory):
    (directory / "30" / "notes.txt").write_text("keep this")
    assert f"{directory}/30/notes.txt: is no part of this checkpoint" in said(directory)


def test_a_file_that_cannot_be_read_is_named(directory):
    file = largest(directory)
    file.unlink()
    file.symlink_to("nowhere")
    assert f"{file}: cannot be read (No such file or directory)" in said(directory)


def test_a_renamed_checkpoint_is_named_with_its_step(directory):
    (directory / "30").rename(directory / "40")
    assert f"{directory}/40: belongs to step 30" in said(directory)


def test_damaged_checksums_are_named(directory):
    (directory / "30" / CHECKSUMS_FILE).write_text("{}")
    assert f"{directory}/30/{CHECKSUMS_FILE}: is damaged itself" in said(directory)


def test_an_intact_folder_gives_nothing_to_say_and_stays_as_it_is(directory):
    before = contents(directory.parent)
    assert newest_intact(directory) == (30, [])
    assert contents(directory.parent) == before


def test_damaged_checkpoints_of_one_step_are_all_kept(directory):
    for suffix in ("", "-1", "-2"):
        os.truncate(largest(directory), 10)
        assert said(directory).endswith(f"damaged_checkpoints/30{suffix}")
        save(directory, 30)


def test_the_step_that_was_asked_for_is_read_or_refused(directory):
    os.truncate(largest(directory), 10)
    wanted = {"weights": abstract()["params"]["weights"]}
    assert read_params(directory, 20, wanted)[::2] == (20, [])
    with pytest.raises(UserError, match=r"checkpoints/30/.*truncated, .*; there are also 20"):
        read_params(directory, 30, wanted)


def test_whole_files_that_orbax_cannot_load_are_one_clear_error(directory):
    os.truncate(largest(directory), 10)
    (directory / "30" / CHECKSUMS_FILE).unlink()
    module._seal(directory / "30")
    assert newest_intact(directory) == (30, [])
    with pytest.raises(UserError, match=r"/30: this checkpoint is damaged .* to continue from step 20"):
        Checkpoints(directory).load(30, abstract())


# ---- a checkpoint that was not written to its end


def test_killed_between_the_last_file_and_the_seal_the_one_before_is_taken(directory):
    (directory / "30" / CHECKSUMS_FILE).unlink()
    assert Checkpoints(directory).latest_step == 20
    found, lines = newest_intact(directory)
    assert found == 20
    assert re.search(r"/30: was not written to its end, it has no checksums.json; .*damaged_checkpoints/30", lines[0])


def test_killed_within_the_seal_the_one_before_is_taken(directory):
    seal = directory / "30" / CHECKSUMS_FILE
    seal.rename(f"{seal}.tmp")
    assert newest_intact(directory)[0] == 20


def test_killed_while_orbax_wrote_the_one_before_is_taken(directory):
    (directory / "30" / CHECKSUMS_FILE).unlink()
    (directory / "30").rename(directory / "30.orbax-checkpoint-tmp")
    assert newest_intact(directory) == (20, [])
    assert Checkpoints(directory).latest_step == 20


def test_killed_in_the_first_save_a_run_begins_again(directory):
    shutil.rmtree(directory / "20")
    (directory / "30" / CHECKSUMS_FILE).unlink()
    found, lines = newest_intact(directory)
    assert found is None
    assert "/30: was not written to its end" in lines[0]
    save(directory, 30)
    assert newest_intact(directory) == (30, [])


def test_several_checkpoints_without_checksums_are_for_a_person_to_judge(directory):
    for step in (20, 30):
        (directory / str(step) / CHECKSUMS_FILE).unlink()
    with pytest.raises(UserError, match=r"none of its checkpoints .* train from the first step again, move that"):
        newest_intact(directory)
    assert steps_in(directory) == [20, 30]


def test_a_run_without_checkpoints_has_none_to_continue_from(tmp_path):
    assert newest_intact(tmp_path / "checkpoints") == (None, [])
    assert list(tmp_path.iterdir()) == []


# ---- sealing


def test_a_save_under_way_does_not_count(tmp_path, monkeypatch):
    """And is not waited for, but by `wait`."""
    release = module.Future()
    seal = module._seal
    monkeypatch.setattr(module, "_seal", lambda checkpoint: release.result() or seal(checkpoint))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(10, state(10), None)
    assert checkpoints.latest_step is None
    release.set_result(None)
    checkpoints.wait()
    assert checkpoints.latest_step == 10
    checkpoints.close()


@pytest.mark.parametrize("notice", ["wait", "close", "save"])
def test_a_disk_that_fills_up_while_sealing_is_told_once(tmp_path, monkeypatch, notice):
    def full(checkpoint):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with monkeypatch.context() as patched:
        patched.setattr(module, "_seal", full)
        checkpoints.save(10, state(10), None)
        arguments = (20, state(20), None) if notice == "save" else ()
        with pytest.raises(UserError, match=r"checkpoints: cannot be written \(No space left on device\); make room"):
            getattr(checkpoints, notice)(*arguments)
    assert checkpoints.latest_step is None
    if notice != "close":
        checkpoints.save(20, state(20), None)
        checkpoints.close()
        assert newest_intact(checkpoints.directory)[0] == 20


TRAINING = """
import sys, jax.numpy as jnp
from pathlib import Path
from albert_jax.checkpoint import Checkpoints, newest_intact
directory = Path(sys.argv[1])
step, lines = newest_intact(directory)
checkpoints = Checkpoints(directory)
state = {"x": jnp.zeros(2**16)} if step is None else checkpoints.load(step, {"x": jnp.zeros(2**16)})
assert (state["x"] == (step or 0)).all()
step = step or 0
while True:
    step += 1
    checkpoints.save(step, {"x": jnp.full(2**16, step, jnp.float32)}, None)
    print(checkpoints.latest_step or 0, flush=True)
"""


def test_killed_at_any_time_a_run_continues_from_the_last_sealed_step(tmp_path):
    directory = tmp_path / "checkpoints"
    rng = random.Random(0)
    sealed = 0
    for _ in range(4):
        command = [sys.executable, "-c", TRAINING, str(directory)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(rng.randrange(3, 20)):
                sealed = int(process.stdout.readline())
            time.sleep(rng.random() / 50)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        found, _ = newest_intact(directory)
        assert found >= sealed > 0
    assert set(Checkpoints(directory).load(found)["x"].tolist()) == {found}


def test_the_seal_covers_every_file_of_the_checkpoint(saved):
    sealed = json.loads((saved / "30" / CHECKSUMS_FILE).read_text())
    names = set(contents(saved / "30"))
    assert sealed["step"] == 30
    assert set(sealed["files"]) == names - {CHECKSUMS_FILE}
    assert {"_CHECKPOINT_METADATA", "metrics/metrics", "state/_METADATA"} < names


# ---- what is kept


@pytest.mark.parametrize(("keep", "kept"), [(1, [10, 50, 60]), (2, [10, 50, 60]), (3, [10, 40, 50, 60])])
def test_the_newest_the_one_before_and_the_best_are_kept_sealed(tmp_path, keep, kept):
    directory = tmp_path / "checkpoints"
    save(directory, *range(10, 70, 10), losses={step: step / 100 for step in range(10, 70, 10)}, keep=keep)
    assert steps_in(directory) == kept
    assert newest_intact(directory) == (60, [])


def test_a_damaged_checkpoint_takes_no_place_of_those_kept(directory):
    """Of steps 20 and 30 the newest is damaged; two more saves go by, and there is always one before the newest."""
    os.truncate(largest(directory), 10)
    newest_intact(directory)
    save(directory, 40, keep=2)
    assert steps_in(directory) == [20, 40]
    save(directory, 50, keep=2)
    assert steps_in(directory) == [20, 40, 50], "20 is the best still"


# ---- across meshes


def test_a_state_of_eight_devices_is_continued_on_another_mesh(tmp_path):
    directory = tmp_path / "checkpoints"
    devices = np.array(jax.devices())
    assert devices.size == 8

    def placed(mesh):
        places = {"params": {"weights": PartitionSpec("a", "b"), "bias": PartitionSpec("b")}, "step": PartitionSpec()}
        return jax.tree.map(lambda x, place: jax.device_put(x, NamedSharding(mesh, place)), state(10), places)

    checkpoints = Checkpoints(directory)
    checkpoints.save(10, placed(Mesh(devices.reshape(4, 2), ("a", "b"))), None)
    checkpoints.close()
    assert newest_intact(directory) == (10, [])
    for shape in ((2, 4), (1, 2), (1, 1)):
        wanted = placed(Mesh(devices[: shape[0] * shape[1]].reshape(shape), ("a", "b")))
        sharded = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted)
        loaded = Checkpoints(directory).load(10, sharded)
        assert_state(loaded, 10)
        assert loaded["params"]["weights"].sharding == wanted["params"]["weights"].sharding


# ---- several processes

ONE_OF_TWO = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
index, directory, port = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
from jax.experimental.multihost_utils import broadcast_one_to_all
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from albert_jax.checkpoint import Checkpoints, newest_intact

sharding = NamedSharding(Mesh(np.array(jax.devices()), ("a",)), PartitionSpec("a"))
step = (newest_intact(directory)[0] or 0) if index == 0 else 0
step = int(broadcast_one_to_all(jnp.int32(step)))
checkpoints = Checkpoints(directory)
if step:
    state = checkpoints.load(step, {"x": jax.ShapeDtypeStruct((4096,), jnp.float32, sharding=sharding)})
    assert all((shard.data == step).all() for shard in state["x"].addressable_shards)
for new in (step + 10, step + 20):
    whole = np.full(4096, new, np.float32)
    checkpoints.save(new, {"x": jax.make_array_from_callback((4096,), sharding, lambda index: whole[index])}, None)
checkpoints.close()
print(step)
"""


def two_processes(directory):
    """The steps from which both continue."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
    }
    commands = [[sys.executable, "-c", ONE_OF_TWO, str(index), str(directory), str(port)] for index in (0, 1)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        ended = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], ended
    return [int(output.splitlines()[-1]) for output, _ in ended]


@pytest.mark.slow
def test_two_processes_share_the_checkpoints_that_the_first_one_judges(tmp_path):
    directory = tmp_path / "checkpoints"
    assert two_processes(directory) == [0, 0]
    sealed = json.loads((directory / "20" / CHECKSUMS_FILE).read_text())["files"]
    assert {"state/array_metadatas/process_0", "state/array_metadatas/process_1"} < set(sealed)
    (directory / "20" / "state" / "array_metadatas" / "process_1").write_bytes(b"")
    assert two_processes(directory) == [10, 10]
    assert steps_in(directory) == [20, 30]
    assert newest_intact(directory) == (30, [])
