"""The peer's side of benchmarks/finetune.py, with transformers and torch only:
`finetune_peer.py FOLDER float32|bfloat16 cpu|gpu [--compile]`.

The loop is what a careful user writes by hand: no Trainer, no data loader, no host-device wait within a pass; fused
AdamW, masks and batches made by NumPy on whole arrays, from pinned memory. Batches are padded to their longest, up to
a multiple of 8.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers.trainer_pt_utils import get_length_grouped_indices

MEGABATCH = 50  # batches sorted together, as transformers does in an epoch of at least 200

folder, dtype, device = Path(sys.argv[1]), *sys.argv[2:4]
with_compile = "--compile" in sys.argv[4:]
job = SimpleNamespace(**json.loads((folder / "job.json").read_text()))
data = {name: array for name, array in np.load(folder / "data.npz").items()}
input_ids, offsets, first = data["input_ids"].astype(np.int64), data["offsets"], data["first"]
lengths = np.diff(offsets)
TARGETS = {"classification": ("labels",), "answers": ("starts", "ends")}[job.kind]

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
transformers.utils.logging.set_verbosity_error()
if device == "gpu":
    device = "cuda"
    if not torch.cuda.is_available():
        sys.exit(f"device gpu: torch {torch.__version__} finds none")
    torch.set_float32_matmul_precision("high")  # TF32, as JAX's default is
# To what lengths are rounded up: matrix units of a GPU like eights, a CPU wastes the least without.
MULTIPLE = 8 if device == "cuda" else 1


class Learner:
    """A model with its optimizer."""

    def __init__(self, attention: str, compiled: bool):
        kinds = transformers.AlbertForSequenceClassification, transformers.AlbertForQuestionAnswering
        cls = kinds[job.kind == "answers"]
        model, report = cls.from_pretrained(
            folder / "model", attn_implementation=attention, dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"] or report["mismatched_keys"]:
            sys.exit(f"{folder / 'model'}: loaded in part: {report}")
        self.attention = attention
        self.model = model.to(device).train()
        self.initial = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.parameters = list(self.model.parameters())
        self.call = torch.compile(self.model, dynamic=True) if compiled else self.model
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": job.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        rest = dict(lr=job.learning_rate, betas=(job.beta_1, job.beta_2), eps=job.epsilon)
        try:
            self.optimizer = torch.optim.AdamW(groups, fused=True, **rest)
        except RuntimeError:
            self.optimizer = torch.optim.AdamW(groups, foreach=True, **rest)
        if device == "cuda" or compiled:
            # No later batch asks the driver for memory, or is compiled anew: the compiler's code depends on whether
            # there is padding, and on bounds for the size.
            order = np.argsort(-lengths, kind="stable")
            full = order[lengths[order] % MULTIPLE == 0]
            ends = [order[: job.batch_size], order[-job.batch_size :]]
            for rows in ends + [full[[i] * job.batch_size] for i in (0, -1) if len(full)]:
                self.step(collate(rows, attention))

    def reset(self) -> None:
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.initial[name])
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        for group in self.optimizer.param_groups:
            group["lr"] = job.learning_rate

    def step(self, batch: dict) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name not in (*TARGETS, "mask")}
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            output = self.call(**inputs)
            if job.kind == "classification":
                loss = cross_entropy(output.logits, batch["labels"])
            else:
                # transformers' own loss lets padding compete for the answer, so that it depends on the batch.
                starts, ends = (
                    logits.float().masked_fill(~batch["mask"], -torch.inf)
                    for logits in (output.start_logits, output.end_logits)
                )
                loss = (cross_entropy(starts, batch["starts"]) + cross_entropy(ends, batch["ends"])) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, job.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def run(self, draw: np.ndarray, grouped: bool, seed: int) -> dict:
        torch.manual_seed(seed)
        self.reset()
        count = len(draw) // job.batch_size
        schedule = transformers.get_linear_schedule_with_warmup(self.optimizer, job.warmup_steps, count)
        losses, places = [], 0
        synchronize()
        start = time.perf_counter()
        if grouped:
            order = get_length_grouped_indices(lengths[draw].tolist(), job.batch_size, mega_batch_mult=MEGABATCH)
            draw = draw[order]
        for rows in draw.reshape(count, job.batch_size):
            batch = collate(rows, self.attention)
            places += batch["input_ids"].numel()
            losses.append(self.step(batch))
            schedule.step()
        synchronize()
        seconds = time.perf_counter() - start
        return dict(
            seconds=seconds,
            loss=torch.stack(losses).double().mean().item(),
            steps=len(losses),
            examples=len(draw),
            tokens=int(lengths[draw].sum()),
            places=places,
        )


def collate(rows: np.ndarray, attention: str) -> dict[str, torch.Tensor]:
    """The sequences padded to their longest, rounded up to `MULTIPLE`."""
    longest = -(-lengths[rows].max() // MULTIPLE) * MULTIPLE
    places = np.arange(longest)
    mask = places < lengths[rows, None]
    ids = np.where(mask, input_ids[np.minimum(offsets[rows, None] + places, len(input_ids) - 1)], job.pad_id)
    batch = {"input_ids": ids, "token_type_ids": (mask & (places >= first[rows, None])).astype(np.int64)}
    batch |= {"mask": mask} | {name: data[name][rows] for name in TARGETS}
    if not mask.all():
        # From a mask of two axes transformers makes one of four on every call, and with SDPA waits for the device to
        # see whether it is needed.
        batch["attention_mask"] = mask[:, None, None, :] if attention == "sdpa" else mask.astype(np.int64)
    return {name: to_device(torch.from_numpy(array)) for name, array in batch.items()}


def to_device(array: torch.Tensor) -> torch.Tensor:
    return array.pin_memory().to(device, non_blocking=True) if device == "cuda" else array


def synchronize() -> None:
    if device == "cuda":
        torch.cuda.synchronize()


kinds = {attention: (attention, False) for attention in ("sdpa", "eager")}
skipped = {}
if with_compile:
    if any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        kinds |= {f"{attention}, compiled": (attention, True) for attention in ("sdpa", "eager")}
    else:
        skipped["compiled"] = "torch.compile needs a C++ compiler, and neither g++ nor clang++ is here"
learners: dict[str, Learner] = {}
settings = {f"{kind}, {order}": (kind, order == "by length") for kind in kinds for order in ("random", "by length")}
name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
about = f"torch {torch.__version__}, transformers {transformers.__version__}, {name}"
print(json.dumps({"about": about, "settings": list(settings), "skipped": skipped}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    kind, grouped = settings[request["setting"]]
    if kind not in learners:
        learners[kind] = Learner(*kinds[kind])
    answer = learners[kind].run(data["draws"][request["pass"]], grouped, request["pass"])
    print(json.dumps(answer), flush=True)
