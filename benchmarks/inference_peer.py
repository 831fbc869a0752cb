"""The peers' side of benchmarks/inference.py, with transformers and torch only:
`inference_peer.py pipeline|batched_pipeline|pytorch TASK DTYPE FOLDER`."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
kind, task, dtype, folder = sys.argv[1:]
transformers.utils.logging.set_verbosity_error()
texts = json.loads((Path(folder) / f"{task}.json").read_text())
source = Path(folder) / "model"
tokenizer = transformers.AutoTokenizer.from_pretrained(source)
cls = transformers.AutoModelForMaskedLM if task == "fill-mask" else transformers.AutoModel
model = cls.from_pretrained(source).to(getattr(torch, dtype)).eval()
TOKENS = 2048  # of a batch, padding included
special = [tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens]


def pipeline(batch_size: int):
    name = "fill-mask" if task == "fill-mask" else "feature-extraction"
    pipe = transformers.pipeline(name, model=model, tokenizer=tokenizer, batch_size=batch_size)

    def run(texts: list[str]) -> np.ndarray:
        with torch.inference_mode():
            if task == "fill-mask":
                results = pipe(texts)
                results = [results] if len(texts) == 1 and isinstance(results[0], dict) else results
                best = (next(r for r in found if r["token"] not in special) for found in results)
                return np.array([tokenizer.convert_ids_to_tokens(r["token"]) for r in best])
            found = pipe(texts, return_tensors=True)
            # A batch comes back with its padding, which belongs to no mean.
            lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
            means = [t[0, :n].float().mean(0).numpy() for t, n in zip(found, lengths, strict=True)]
            return np.stack(means)

    return run


def pytorch(texts: list[str]) -> np.ndarray:
    """What a careful user writes: sorted by length, batched by tokens, the head at the masks only."""
    encoded = tokenizer(texts)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: -len(encoded[i]))
    results = [None] * len(texts)
    with torch.inference_mode():
        while order:
            count = max(1, TOKENS // len(encoded[order[0]]))
            batch, order = order[:count], order[count:]
            inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
            trunk = model.albert if task == "fill-mask" else model
            hidden = trunk(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
            if task == "fill-mask":
                rows, places = (inputs["input_ids"] == tokenizer.mask_token_id).nonzero(as_tuple=True)
                scores = model.predictions(hidden[rows, places]).float().softmax(-1)
                scores[:, special] = 0
                for row, best in zip(rows.tolist(), scores.topk(5).indices[:, 0].tolist(), strict=True):
                    results[batch[row]] = tokenizer.convert_ids_to_tokens(best)
            else:
                mask = inputs["attention_mask"][:, :, None]
                means = (hidden.float() * mask).sum(1) / mask.sum(1)
                for row, i in enumerate(batch):
                    results[i] = means[row].numpy()
    return np.array(results)


run = {"pipeline": lambda: pipeline(1), "batched_pipeline": lambda: pipeline(16), "pytorch": lambda: pytorch}[kind]()
run(texts[:1])
print(json.dumps({}), flush=True)
answers = Path(folder) / f"{kind}-{os.getpid()}.npy"
for _ in sys.stdin:
    start = time.perf_counter()
    result = run(texts)
    seconds = time.perf_counter() - start
    np.save(answers, result)
    print(json.dumps({"seconds": seconds, "answers": str(answers)}), flush=True)
