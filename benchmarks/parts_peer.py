"""The peer's side of benchmarks/parts.py, with torch only: `parts_peer.py FOLDER`. Its eager operations, by the names
of our parts; the masked-LM head is on all places, as transformers has it."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn import functional

job = SimpleNamespace(**json.loads((Path(sys.argv[1]) / "job.json").read_text()))
size = SimpleNamespace(**job.size)
device = "cuda" if job.device == "gpu" else "cpu"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
if device == "cuda":
    if not torch.cuda.is_available():
        sys.exit(f"device gpu: torch {torch.__version__} finds none")
    torch.set_float32_matmul_precision("high")  # TF32, as JAX's default is
    torch.cuda.set_per_process_memory_fraction(0.45)
dtype = getattr(torch, job.dtype)
rows, length, hidden, wide, embedding = (
    job.rows,
    job.length,
    size.hidden_size,
    size.intermediate_size,
    size.embedding_size,
)


def random(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
    return (0.02 * torch.randn(shape, device=device, dtype=of)).requires_grad_()


def product(inner: int, columns: int, together: int = 1) -> tuple[Callable, list]:
    weights = [random(columns, inner) if i % 2 == 0 else random(columns) for i in range(2 * together)]

    def function(x: torch.Tensor, *weights: torch.Tensor) -> list[torch.Tensor]:
        return [functional.linear(x, weights[i], weights[i + 1]) for i in range(0, len(weights), 2)]

    return function, [random(rows, length, inner), *weights]


def attention() -> tuple[Callable, list]:
    heads = size.num_attention_heads
    shape = rows, length, heads, hidden // heads

    def function(*heads: torch.Tensor) -> torch.Tensor:
        context = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in heads))
        return context.transpose(1, 2).reshape(rows, length, hidden)

    return function, [random(*shape) for _ in range(3)]


def normalization() -> tuple[Callable, list]:
    # In float32 under autocast, like ours within.
    def function(x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm((x + y).float(), (hidden,), scale, bias, size.layer_norm_eps).to(dtype)

    of = torch.float32
    return function, [*(random(rows, length, hidden) for _ in range(2)), random(hidden, of=of), random(hidden, of=of)]


def embeddings() -> tuple[Callable, list]:
    ids = torch.randint(5, size.vocab_size, (rows, length), device=device)
    ids[torch.rand(ids.shape, device=device) < 0.12] = 4  # as many [MASK] as text has
    types = (torch.arange(length, device=device) > length // 2).long().expand(rows, length)
    of = torch.float32

    def function(word: torch.Tensor, position: torch.Tensor, kind: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        total = functional.embedding(ids, word) + position[:length] + functional.embedding(types, kind)
        return functional.layer_norm(total, (embedding,), scale).to(dtype)

    tables = (size.vocab_size, size.max_position_embeddings, size.type_vocab_size)
    return function, [*(random(count, embedding, of=of) for count in tables), random(embedding, of=of)]


def head() -> tuple[Callable, list]:
    labels = torch.full((rows, length), -100, device=device)
    labels[torch.rand(labels.shape, device=device) < 0.15] = 7

    def function(x: torch.Tensor, dense: torch.Tensor, table: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = functional.gelu(functional.linear(x, dense), approximate="tanh")
        logits = functional.linear(functional.layer_norm(x, (embedding,)), table, bias)
        return functional.cross_entropy(logits.float().view(-1, size.vocab_size), labels.view(-1))

    return function, [
        random(rows, length, hidden),
        random(embedding, hidden),
        random(size.vocab_size, embedding),
        random(size.vocab_size),
    ]


def optimizer() -> Callable[[], None]:
    shapes = [(size.vocab_size, embedding), (size.max_position_embeddings, embedding), (embedding, hidden)]
    shapes += [(hidden, hidden)] * 5 + [(wide, hidden), (hidden, wide), (embedding, hidden)]
    parameters = [random(*shape, of=torch.float32) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    try:
        adamw = torch.optim.AdamW(parameters, lr=1e-7, fused=True)
    except RuntimeError:
        adamw = torch.optim.AdamW(parameters, lr=1e-7, foreach=True)
    return adamw.step


PARTS: dict[str, Callable[[], tuple[Callable, list]]] = {
    "embeddings": embeddings,
    "embeddings to hidden": lambda: product(embedding, hidden),
    "query, key, value": lambda: product(hidden, hidden, together=3),
    "attention plain": attention,
    "attention cudnn": attention,
    "attention output": lambda: product(hidden, hidden),
    "residual, LayerNorm": normalization,
    "feed-forward in": lambda: product(hidden, wide),
    "GELU": lambda: (lambda x: functional.gelu(x, approximate="tanh"), [random(rows, length, wide)]),
    "feed-forward out": lambda: product(wide, hidden),
    "masked-LM head and loss": head,
}
calls: dict[tuple[str, str], Callable[[], object]] = {}


def call(name: str, kind: str) -> Callable[[], object]:
    """What is timed: a part forward, or with the gradients of all its arguments."""
    if name == "LAMB":
        return optimizer()
    function, arguments = PARTS[name]()

    def forward() -> object:
        with torch.no_grad():
            return function(*arguments)

    def both() -> object:
        results = function(*arguments)
        results = results if isinstance(results, list) else [results]
        return torch.autograd.grad(results, arguments, gradients)

    results = forward()
    results = results if isinstance(results, list) else [results]
    gradients = [torch.full_like(result, 0.01) for result in results]
    return forward if kind == "forward" else both


def seconds(function: Callable[[], object], count: int) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        function()
    synchronize()
    return (time.perf_counter() - start) / count


def synchronize() -> None:
    if device == "cuda":
        torch.cuda.synchronize()


name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
print(json.dumps({"about": f"torch {torch.__version__}, {name}", "parts": [*PARTS, "LAMB"]}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    key = request["part"], request["kind"]
    if key not in calls:
        calls[key] = call(*key)
        seconds(calls[key], 1)
    count = max(2, min(1000, int(job.seconds / max(seconds(calls[key], 1), 1e-6))))
    print(json.dumps({"seconds": seconds(calls[key], count)}), flush=True)
