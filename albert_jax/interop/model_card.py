"""The README that goes with a saved model."""

import json

from albert_jax.config import AlbertConfig

AUTO_CLASSES = {
    "AlbertModel": "AutoModel",
    "AlbertForPreTraining": "AutoModelForPreTraining",
    "AlbertForMaskedLM": "AutoModelForMaskedLM",
    "AlbertForSequenceClassification": "AutoModelForSequenceClassification",
    "AlbertForTokenClassification": "AutoModelForTokenClassification",
    "AlbertForQuestionAnswering": "AutoModelForQuestionAnswering",
    "AlbertForBeamQuestionAnswering": "AutoModel",
    "AlbertForMultipleChoice": "AutoModelForMultipleChoice",
}


def model_card(
    architecture: str, task: str | None, config: AlbertConfig, labels: tuple[str, ...], has_tokenizer: bool
) -> str:
    """A model card with the metadata that the hub reads, the sizes, and how to load it on either side."""
    metadata = ["library_name: transformers", "tags:", "- albert", "- albert_jax"]
    if task:
        metadata.insert(1, f"pipeline_tag: {task}")
    sizes = (
        f"embedding size {config.embedding_size}, hidden size {config.hidden_size}, {config.num_hidden_layers} layers "
        f"in {config.num_hidden_groups} group(s), {config.num_attention_heads} heads, {config.vocab_size:,} pieces"
    )
    auto = AUTO_CLASSES[architecture]
    lines = ["---", *metadata, "---", "", "# ALBERT", "", f"`{architecture}`: {sizes}."]
    if any(label != f"LABEL_{number}" for number, label in enumerate(labels)):
        lines += ["", f"Labels: {', '.join(json.dumps(label, ensure_ascii=False) for label in labels)}."]
    tokenizer = [
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)"
        if has_tokenizer
        else "# the tokenizer is not in this folder"
    ]
    begin = "or"
    if architecture == "AlbertForBeamQuestionAnswering":
        begin = "That is the encoder alone, as transformers has no class with Google's head for SQuAD 2.0. The whole is"
    lines += [
        "",
        "```python",
        f"from transformers import {auto}{', AutoTokenizer' if has_tokenizer else ''}",
        "",
        *tokenizer,
        f"model = {auto}.from_pretrained(FOLDER)",
        "```",
        "",
        f"{begin} in JAX, with [ALBERT in JAX/Flax](https://arxiv.org/abs/1909.11942):",
        "",
        "```python",
        f"from albert_jax import {architecture}",
        "",
        f"model = {architecture}.from_pretrained(FOLDER)  # model.tokenizer, model.params, model(...)",
        "```",
    ]
    return "\n".join(lines) + "\n"
