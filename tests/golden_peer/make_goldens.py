"""Writes what transformers says, for `tests/test_golden_peer.py` to compare with where it is not installed.

    python tests/golden_peer/make_goldens.py                      writes everything here anew
    python tests/golden_peer/make_goldens.py --check              compares with what is here, and writes nothing

Run by hand from the root of the repository, where transformers, torch and this package are installed. Parameters are
random and of a fixed seed, so another version of transformers is asked about the same models.
"""

import datetime
import hashlib
import json
import lzma
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers

from albert_jax.interop.tokenizer_json import save_tokenizer
from albert_jax.tokenizer import AlbertTokenizer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

SIZES = dict(
    vocab_size=61,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=13,
)
MODELS = {
    "model": ("AlbertModel", {}),
    "pretraining": ("AlbertForPreTraining", {}),
    "masked_lm": ("AlbertForMaskedLM", {}),
    "sequence_classification": (
        "AlbertForSequenceClassification",
        dict(id2label={0: "bad", 1: "good", 2: "ugly"}, problem_type="multi_label_classification"),
    ),
    "token_classification": ("AlbertForTokenClassification", dict(num_labels=5)),
    "question_answering": ("AlbertForQuestionAnswering", {}),
    "multiple_choice": ("AlbertForMultipleChoice", {}),
    "groups": ("AlbertModel", dict(num_hidden_layers=4, num_hidden_groups=2)),
    "inner_groups": ("AlbertForPreTraining", dict(num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)),
    "e_is_h": ("AlbertForPreTraining", dict(embedding_size=16)),
    "relu": ("AlbertForMaskedLM", dict(hidden_act="relu")),
    "gelu_by_erf": ("AlbertForMaskedLM", dict(hidden_act="gelu")),
    "untied": ("AlbertForMaskedLM", dict(tie_word_embeddings=False)),
    "odd_epsilon": ("AlbertForSequenceClassification", dict(num_hidden_layers=1, layer_norm_eps=1e-3, num_labels=1)),
}
VOCABULARY = HERE / "tokenizer" / "spiece.model.xz"
PIECES = 400
ODD_TEXTS = [
    "",
    " ",
    "\t \n",
    "A",
    "1,000 and 1999, or 12,345,678.",
    "naïve café Ångström ÉCOLE",
    "½ of ﬁve, № 7 … and Ⅻ",
    "东京 and Москва",
    "well-known (as “they” say) - £5 \u2013 €6.",
    "don't; won't: it's 'quoted' \"twice\"",
    "x" * 80,
    "tab\tand\u00a0no-break\u3000wide   spaces",
    "e\u0301 is é, and ﬀ is two",
    "emoji 🙂 and zero\u200bwidth",
    "a_b c/d <e> [f] {g} #h @i $j %k ^l &m *n +o =p ~q |r",
]


def random_model(head: str, changes: dict) -> torch.nn.Module:
    """No parameter is zero or one: a swapped bias or LayerNorm shows."""
    torch.manual_seed(0)
    model = getattr(transformers, head)(transformers.AlbertConfig(**(SIZES | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def random_inputs(head: str) -> dict[str, np.ndarray]:
    """Rows of different lengths, with both segments and padding."""
    rng = np.random.default_rng(1)
    length = SIZES["max_position_embeddings"] - 2
    shape = (2, 2, length) if head == "AlbertForMultipleChoice" else (3, length)
    lengths = rng.integers(4, length + 1, shape[:-1])
    mask = np.arange(length) < lengths[..., None]
    ids = np.where(mask, rng.integers(5, SIZES["vocab_size"], shape), 0)
    types = (np.arange(length) > lengths[..., None] // 2) & mask
    return {name: value.astype(np.int32) for name, value in zip(INPUTS, (ids, types, mask), strict=True)}


INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def outputs_of(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output; the hidden states of the bare models too, stacked."""
    with torch.no_grad():
        output = model(
            **{name: torch.tensor(value).long() for name, value in inputs.items()},
            output_hidden_states=type(model).__name__ == "AlbertModel",
        )
    return {
        name: (torch.stack(value) if isinstance(value, tuple) else value).float().numpy()
        for name, value in output.items()
    }


def sample_texts() -> list[str]:
    """Sixty lines of the bundled corpus and the odd ones."""
    lines = [line for file in sorted((ROOT / "data" / "sample").glob("*.txt")) for line in file.open(encoding="utf-8")]
    lines = [line.rstrip("\n")[:160] for line in lines if line.strip()]
    return random.Random(0).sample(lines, 60) + ODD_TEXTS


def tokenizer_ids(folder: Path) -> dict:
    """What transformers makes of the tokenizer that we save."""
    save_tokenizer(AlbertTokenizer(lzma.decompress(VOCABULARY.read_bytes())), folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = sample_texts()
    pairs = [[texts[i], texts[i + 1]] for i in range(0, 20, 2)] + [["1,000", "café"], ["word", " "]]
    encoded = [theirs(*pair) for pair in pairs]
    return {
        "vocabulary": theirs.vocab_size,
        "tokenizer.json": content_hash(folder / "tokenizer.json"),
        "texts": texts,
        "ids": [theirs(text)["input_ids"] for text in texts],
        "pairs": pairs,
        "pair_ids": [one["input_ids"] for one in encoded],
        "pair_segments": [one["token_type_ids"] for one in encoded],
    }


def content_hash(path: Path) -> str:
    """SHA-256 of what a JSON file says, however it is spaced."""
    content = json.dumps(json.loads(path.read_text("utf-8")), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def make() -> None:
    from data.train_vocab import train_vocab

    for name, (head, changes) in MODELS.items():
        model, inputs = random_model(head, changes), random_inputs(head)
        model.save_pretrained(HERE / name)
        np.savez_compressed(HERE / name / "outputs.npz", **inputs, **outputs_of(model, inputs))
        (HERE / name / "model.safetensors").chmod(0o644)
    VOCABULARY.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Its character map is most of it and compresses to a third.
        trained = train_vocab([str(ROOT / "data/sample/*.txt")], Path(folder) / "spiece.model", vocab_size=PIECES)
        VOCABULARY.write_bytes(lzma.compress(trained.read_bytes(), preset=9))
        golden = tokenizer_ids(Path(folder))
    lines = [f"{json.dumps(key)}: {_one_per_line(value)}" for key, value in golden.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (HERE / "tokenizer" / "ids.json").write_text(text, "utf-8")
    versions = {name: version(name) for name in ("transformers", "torch", "tokenizers")}
    versions["date"] = datetime.date.today().isoformat()
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


def _one_per_line(value: object) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n]"


def check() -> None:
    """What the installed versions say, beside what is kept here."""
    worst = 0.0
    for name, (head, _) in MODELS.items():
        golden = dict(np.load(HERE / name / "outputs.npz"))
        inputs = {key: golden.pop(key) for key in INPUTS}
        model = getattr(transformers, head).from_pretrained(HERE / name).eval()
        now = outputs_of(model, inputs)
        assert now.keys() == golden.keys(), name
        worst = max([worst, *(float(np.abs(now[key] - golden[key]).max()) for key in golden)])
    with tempfile.TemporaryDirectory() as folder:
        ids = tokenizer_ids(Path(folder))
    kept = json.loads((HERE / "tokenizer" / "ids.json").read_text("utf-8"))
    different = [key for key in kept if kept[key] != ids[key]]
    print(f"transformers {version('transformers')}: outputs differ by {worst:.1e} at most; other ids: {different}")


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    check() if "--check" in sys.argv[1:] else make()
