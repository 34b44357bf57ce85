"""A tunneller inside the training loops that others run: Lightning, Hugging Face Transformers, skorch.

Each module needs the library that it is for. Users have them as `gdsolver.LightningCallback` and the like; checkpoints
know each as `TunnelCallback`.
"""
