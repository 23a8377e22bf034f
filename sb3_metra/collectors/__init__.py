"""Collectors: whole episodes, run elsewhere by the weights of a round."""

from sb3_metra.collectors.local import LocalCollectors
from sb3_metra.collectors.on_ray import RayCollectors
from sb3_metra.common.collectors import Collectors

__all__ = ["Collectors", "LocalCollectors", "RayCollectors"]
