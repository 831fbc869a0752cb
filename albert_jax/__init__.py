"""ALBERT in JAX/Flax: pretraining from scratch, fine-tuning, and exchange with other frameworks."""

__version__ = "0.1.0"
