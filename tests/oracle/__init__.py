"""Compare a method's gradient step with recorded ones of its authors' code, number by number."""

from tests.oracle.run import CORE, run_oracle

__all__ = ["CORE", "run_oracle"]
