"""Our side of benchmarks/train_step.py: `train_step_ours.py FOLDER`, with the step that pretrain.py takes."""

import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

# isort: split
from training import about, compute_settings, matmul_ceiling, network, peak_memory, reset_peak_memory, training

from albert_jax.config import ComputeConfig
from albert_jax.errors import UserError
from albert_jax.model.attention_kernels import choose_attention
from albert_jax.pretrained import AlbertForPreTraining

folder = Path(sys.argv[1])
job = SimpleNamespace(**json.loads((folder / "job.json").read_text()))
arrays = {name: array for name, array in np.load(folder / "data.npz").items() if not name.startswith("peer_")}
sequences, length = arrays["input_ids"].shape
model = network(job.size)
params = AlbertForPreTraining.from_pretrained(folder / "model", verbose=False).params

settings: dict[str, ComputeConfig] = {}
skipped: dict[str, str] = {}
for kind in job.attention or (None,):
    for policy in job.remat or (None,):
        try:
            settings |= compute_settings(job.dtype, (kind,) if kind else (), (policy,) if policy else ())
        except UserError as error:
            skipped[f"attention {kind}, remat {policy}"] = str(error)

learners: dict[str, "Learner"] = {}


class Learner:
    """A setting with its compiled step, at the largest microbatch that it has the memory for."""

    def __init__(self, compute: ComputeConfig):
        microbatch = job.microbatch or job.largest
        while True:
            try:
                self.start(compute, microbatch)
                break
            except Exception as error:
                if job.microbatch or "RESOURCE_EXHAUSTED" not in str(error) or microbatch == 1:
                    raise
            microbatch //= 2
        self.microbatch = microbatch

    def start(self, compute: ComputeConfig, microbatch: int) -> None:
        """Compiles the step and takes the first two."""
        self.training = training(model, compute, arrays, sequences // microbatch, params)
        with jax.set_mesh(self.training.mesh):
            self.attention = choose_attention(compute.attention, model, job.dtype, length, microbatch)
            self.step, self.compile_seconds = self.training.compile()
            analysis = self.step.memory_analysis()
            self.planned = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes if analysis else None
            self.state, outcome = self.step(self.training.create(), self.training.batch, 0)
            self.first_loss = float(outcome.loss)
        reset_peak_memory()  # the compiler's is not the step's
        self.run(1)

    def run(self, steps: int) -> dict:
        cpu, start = time.process_time(), time.perf_counter()
        before = None
        with jax.set_mesh(self.training.mesh):
            for _ in range(steps):
                self.state, outcome = self.step(self.state, self.training.batch, 0)
                if before is not None:
                    before.block_until_ready()  # one step in flight, as pretrain.py has it
                before = outcome.loss
            loss = float(outcome.loss)
        return dict(
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu,
            steps=steps,
            sequences=steps * sequences,
            loss=loss,
        )


def answer(request: dict) -> dict:
    if "ceiling" in request:
        rate, shape = matmul_ceiling(model, (job.microbatch or sequences) * length, job.dtype, job.ceiling_seconds)
        return dict(flops=rate, shape=shape)
    name = request["setting"]
    if name not in learners:
        try:
            learners[name] = Learner(settings[name])
        except UserError as error:
            return dict(failed=str(error))
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return dict(failed=f"out of memory: {str(error).splitlines()[0][:200]}")
        learner = learners[name]
        statistics = jax.devices()[0].memory_stats() or {}
        return dict(
            first_loss=learner.first_loss,
            microbatch=learner.microbatch,
            attention=learner.attention,
            compile_seconds=learner.compile_seconds,
            # The allocator's peak has no reset, so that the compiler's plan tells settings apart.
            memory=learner.planned if job.device == "gpu" else peak_memory(),
            allocator_peak=statistics.get("peak_bytes_in_use"),
        )
    result = learners[name].run(request["steps"])
    return result if math.isfinite(result["loss"]) else dict(failed=f"loss {result['loss']}")


device = jax.devices()[0]
print(
    json.dumps({"about": about(), "device_kind": device.device_kind, "settings": list(settings), "skipped": skipped}),
    flush=True,
)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
