"""Laws that a part must obey, as checks to call on one's own: each raises AssertionError naming the
law that fails.
"""

from emgen.testing.divergences import check_divergence
from emgen.testing.kernels import geweke
from emgen.testing.models import check_model
from emgen.testing.objectives import check_objective
from emgen.testing.trainers import check_trainer

__all__ = ["check_divergence", "check_model", "check_objective", "check_trainer", "geweke"]
