"""A tunneller inside the training loops that others run: Lightning, Hugging Face Transformers, skorch.

Each module needs the library that it is for, and is imported by its own name: `from trainer.adapters.lightning import
TunnelCallback`.
"""
