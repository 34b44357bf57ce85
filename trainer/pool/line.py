"""How fast the line to the pool is: where uploads take too much of a job's time, later jobs have fewer samples."""

from dataclasses import dataclass

SLOW, FAST = 0.5, 0.1
"""Of a job's time: an upload that takes more halves the samples of later jobs, one that takes less doubles them."""
LEAST_SLOW_S = 3.0
"""No upload is slow that takes less: a busy machine is not a slow line."""
FEWEST = 64
"""Samples of a job, however slow the line."""


@dataclass
class Line:
    """What uploads took, and which share of the samples that were asked for a job gets.

    Written by the background thread, read by the training thread. One that is not `adaptive` gives every job all.
    """

    time_s: float
    adaptive: bool = True
    share: float = 1.0
    upload_s: float = 0.0

    def took(self, seconds: float, *, in_vain: bool = False) -> None:
        """Learn from an upload, or from one that the pool gave up on (`in_vain`)."""
        if not self.adaptive:
            return
        self.upload_s = seconds
        if in_vain or seconds > max(LEAST_SLOW_S, SLOW * self.time_s):
            self.share /= 2
        elif seconds < FAST * self.time_s:
            self.share = min(1.0, 2 * self.share)

    def samples(self, wanted: int) -> int:
        """How many of the samples that are wanted a job gets."""
        return max(min(wanted, FEWEST), round(self.share * wanted))

    def told(self) -> str:
        """What a summary says of it; nothing where jobs get all samples."""
        if self.share == 1.0:
            return ""
        return f"uploads are slow (the last took {self.upload_s:.3g} s): jobs get {self.share:.3g} of the samples"
