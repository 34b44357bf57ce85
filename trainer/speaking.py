"""What a tunneller says while training goes on, through `logging`, and shown where nobody has set that up."""

import logging
import sys

logger = logging.getLogger("gdsolver")


def speak_up() -> None:
    """Show the lines on stderr, unless the program has its own ideas about logging."""
    if logger.handlers or logging.getLogger().handlers or logger.level != logging.NOTSET:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("gdsolver: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
