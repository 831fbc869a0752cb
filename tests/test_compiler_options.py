"""XLA's options for training steps: the installed compilers know every one of them. Those for TPUs: test_tpu.py."""

import jax
import jax.numpy as jnp
import pytest
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from albert_jax.compiler_options import OPTIONS, step_options
from albert_jax.sharding import AXES


def compile_with(options: dict[str, bool]) -> None:
    jax.jit(lambda x: x + 1, compiler_options=options).lower(jnp.ones(2)).compile()


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_options_are_known_to_the_compiler(platform):
    # XLA's options are the same for CPUs and GPUs, whichever it compiles for: a GPU is not needed to have them read.
    compile_with(OPTIONS[platform])


def test_the_compiler_refuses_an_option_that_it_does_not_know():
    with pytest.raises(JaxRuntimeError, match="No such compile option: 'xla_gpu_no_such_option'"):
        compile_with({"xla_gpu_no_such_option": True})


class Device:
    """What `step_options` reads of a device that is not here."""

    def __init__(self, platform: str):
        self.platform = platform


def mesh_of(*platforms: str) -> Mesh:
    return Mesh([[[Device(platform)]] for platform in platforms], AXES)


@pytest.mark.parametrize("platform", OPTIONS)
def test_options_are_those_of_the_kind_of_device(platform):
    assert step_options(mesh_of(platform, platform)) == OPTIONS[platform]


@pytest.mark.parametrize("platform", [*OPTIONS, "another"])
def test_one_device_and_a_kind_without_options_keep_the_defaults(platform):
    assert step_options(mesh_of(platform)) == {}
    assert step_options(mesh_of("another", "another")) == {}
