"""Settings of the whole suite: eight host-platform devices, so that meshes are real, and where the shared data lies."""

import atexit
import os
import shutil
import signal
import tempfile

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without LLVM's optimisation compilation takes half the time, and it is most of what the suite does.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# And what one test has compiled serves all others, also in other processes.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="albert_jax_programs_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ALBERT_JAX_SHARED", ROOT.parent / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--google_fixture",
        action="append",
        default=[],
        help="folder with outputs of Google's code to compare with (repeatable); default: shared/fixtures/google_*",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "google_fixture" in metafunc.fixturenames:
        named = [Path(folder) for folder in metafunc.config.getoption("--google_fixture")]
        found = named or sorted(SHARED.glob("fixtures/google_*"))
        absent = pytest.param(None, marks=pytest.mark.skip(reason=f"no {SHARED}/fixtures/google_*"))
        metafunc.parametrize("google_fixture", found or [absent], ids=lambda path: getattr(path, "name", "none"))


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the repository; the test is skipped where there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the real data in {SHARED / 'data'}")
    return SHARED / "data"
