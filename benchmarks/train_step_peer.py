"""The peer's side of benchmarks/train_step.py, with transformers and torch only: `train_step_peer.py FOLDER`.

The loop is what a careful user writes by hand: fused AdamW (torch has no LAMB, which is more work), SDPA without a
mask, since all rows are full, everything on the device ahead, no wait for the device within a pass.
"""

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers

folder = Path(sys.argv[1])
job = SimpleNamespace(**json.loads((folder / "job.json").read_text()))
device = "cuda" if job.device == "gpu" else "cpu"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
transformers.utils.logging.set_verbosity_error()
if device == "cuda":
    if not torch.cuda.is_available():
        sys.exit(f"device gpu: torch {torch.__version__} finds none")
    torch.set_float32_matmul_precision("high")  # TF32, as JAX's default is
    torch.cuda.set_per_process_memory_fraction(job.memory_share)

data = np.load(folder / "data.npz")
BATCH = {
    "input_ids": data["input_ids"],
    "token_type_ids": data["token_type_ids"],
    "labels": data["peer_labels"],
    "sentence_order_label": data["peer_sentence_order_label"],
}
batch = {name: torch.from_numpy(array.astype(np.int64)).to(device) for name, array in BATCH.items()}
sequences, length = batch["input_ids"].shape


class Learner:
    """A setting with its model and optimizer, at the largest microbatch that it has the memory for."""

    def __init__(self, attention: str, compile_mode: str | None):
        # What fits without the compiler fits with it.
        uncompiled = learners.get(attention)
        microbatch = job.microbatch or (uncompiled.microbatch if uncompiled else job.largest)
        while True:
            try:
                self.start(attention, compile_mode, microbatch)
                break
            except torch.cuda.OutOfMemoryError:
                if job.microbatch or microbatch == 1:
                    raise
            # Outside the handler, whose traceback holds on to what did not fit.
            self.model = self.call = self.optimizer = self.parameters = None
            torch.compiler.reset()
            torch.cuda.empty_cache()
            microbatch //= 2

    def start(self, attention: str, compile_mode: str | None, microbatch: int) -> None:
        """Loads the weights and takes the first two steps, which compile."""
        self.microbatch = microbatch
        model, report = transformers.AlbertForPreTraining.from_pretrained(
            folder / "model", attn_implementation=attention, dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"] or report["mismatched_keys"]:
            sys.exit(f"{folder / 'model'}: loaded in part: {report}")
        self.model = model.to(device).train()
        self.parameters = list(self.model.parameters())
        self.call = torch.compile(self.model, mode=compile_mode, dynamic=False) if compile_mode else self.model
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        try:
            self.optimizer = torch.optim.AdamW(groups, lr=1e-7, fused=True)
        except RuntimeError:
            self.optimizer = torch.optim.AdamW(groups, lr=1e-7, foreach=True)
        start = time.perf_counter()
        self.first_loss = self.step().item()
        first = time.perf_counter() - start
        reset_peak_memory()  # the compiler's is not the step's
        self.compile_seconds = first - self.run(1)["seconds"]

    def step(self) -> torch.Tensor:
        """One optimizer step on the whole batch; its loss."""
        count = sequences // self.microbatch
        total = torch.zeros((), device=device)
        for part in range(count):
            rows = slice(part * self.microbatch, (part + 1) * self.microbatch)
            with torch.autocast(device, torch.bfloat16, enabled=job.dtype == "bfloat16"):
                loss = self.call(**{name: values[rows] for name, values in batch.items()}).loss
            (loss / count).backward()
            total += loss.detach().float() / count
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def run(self, steps: int) -> dict:
        synchronize()
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        loss = loss.item()
        return dict(
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu,
            steps=steps,
            sequences=steps * sequences,
            loss=loss,
        )


def synchronize() -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def reset_peak_memory() -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory() -> int | None:
    """Bytes since the reset: of the device, or of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def matmul_ceiling() -> tuple[float, str]:
    """The most operations per second of any of the job's products, and of which."""
    best = 0.0, ""
    for rows, inner, columns in job.products:
        one, other = (
            torch.randn(shape, device=device, dtype=getattr(torch, job.dtype))
            for shape in ((rows, inner), (inner, columns))
        )

        def seconds(count: int, one: torch.Tensor = one, other: torch.Tensor = other) -> float:
            synchronize()
            start = time.perf_counter()
            for _ in range(count):
                torch.mm(one, other)
            synchronize()
            return time.perf_counter() - start

        seconds(1)
        count = max(3, min(1000, int(job.ceiling_seconds / max(seconds(1), 1e-6))))
        best = max(best, (2 * rows * inner * columns * count / seconds(count), f"{rows} x {inner} x {columns}"))
    return best


settings: dict[str, tuple[str, str | None]] = {kind: (kind, None) for kind in job.peer_attention}
skipped = {}
for mode in job.compile_modes:
    if any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")) or device == "cuda":
        name = "compiled" if mode == "default" else f"compiled {mode}"
        settings |= {f"{kind}, {name}": (kind, mode) for kind in job.peer_attention}
    else:
        skipped["compiled"] = "torch.compile needs a C++ compiler, and neither g++ nor clang++ is here"
learners: dict[str, Learner] = {}


def answer(request: dict) -> dict:
    if "ceiling" in request:
        rate, shape = matmul_ceiling()
        return dict(flops=rate, shape=shape)
    name = request["setting"]
    if name not in learners:
        try:
            learners[name] = Learner(*settings[name])
        except torch.cuda.OutOfMemoryError as error:
            return dict(failed=f"out of memory: {str(error).splitlines()[0][:200]}")
        learner = learners[name]
        return dict(
            first_loss=learner.first_loss,
            microbatch=learner.microbatch,
            compile_seconds=learner.compile_seconds,
            memory=peak_memory(),
        )
    result = learners[name].run(request["steps"])
    return result if math.isfinite(result["loss"]) else dict(failed=f"loss {result['loss']}")


name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {name}"
print(json.dumps({"about": versions, "settings": list(settings), "skipped": skipped}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
