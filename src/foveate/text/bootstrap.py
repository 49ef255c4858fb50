"""Bootstrap; it lives in foveate.bootstrap, where agents find it too."""

from foveate.bootstrap import Interval, bootstrap_means

__all__ = ["Interval", "bootstrap_means"]
