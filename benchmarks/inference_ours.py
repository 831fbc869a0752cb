"""Our side of benchmarks/inference.py: `inference_ours.py TASK DTYPE FOLDER`."""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from albert_jax import predict
from albert_jax.pretrained import AlbertForMaskedLM, AlbertModel

task, dtype, folder = sys.argv[1:]
texts = json.loads((Path(folder) / f"{task}.json").read_text())
cls = AlbertForMaskedLM if task == "fill-mask" else AlbertModel
model = cls.from_pretrained(Path(folder) / "model", verbose=False)


def run(texts: list[str]) -> np.ndarray:
    if task == "embed":
        return predict.embed(model, texts, dtype=dtype)
    return np.array([masks[0][0].piece for masks in predict.fill_mask(model, texts, dtype=dtype)])


run(texts[:1])
print(json.dumps({}), flush=True)
answers = Path(folder) / f"ours-{os.getpid()}.npy"
for _ in sys.stdin:
    start = time.perf_counter()
    result = run(texts)
    seconds = time.perf_counter() - start
    np.save(answers, result)
    print(json.dumps({"seconds": seconds, "answers": str(answers)}), flush=True)
