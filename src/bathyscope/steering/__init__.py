"""Steering: a direction of the residual stream, added while a model reads and writes."""

from bathyscope.steering.directions import Direction, difference_of_means
from bathyscope.steering.result import SteeredText, SteeringResult
from bathyscope.steering.texts import steer

__all__ = ["Direction", "SteeredText", "SteeringResult", "difference_of_means", "steer"]
