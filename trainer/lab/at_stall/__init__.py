"""What a method does when GD stalls: nothing, restart the optimizer, begin anew, renew dead units, or tunnel."""

from trainer.lab.at_stall.arrange import arrange
from trainer.lab.at_stall.plain import AtStall
from trainer.lab.at_stall.renew import Renew

__all__ = ["AtStall", "Renew", "arrange"]
