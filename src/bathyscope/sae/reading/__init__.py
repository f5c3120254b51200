"""What latents stand for: examples, tokens, neighbours, rules in words, and what the model says itself."""

from bathyscope.sae.reading.descriptions import describe_latents
from bathyscope.sae.reading.directions import nearest_latents, promoted_tokens
from bathyscope.sae.reading.latent import Description, Example, LatentReading, Neighbour, TokenWeight
from bathyscope.sae.reading.reading import read_latents
from bathyscope.sae.reading.result import LatentReadings
from bathyscope.sae.reading.rules import Agreement, MeasuredRule, Rule

__all__ = [
    "Agreement",
    "Description",
    "Example",
    "LatentReading",
    "LatentReadings",
    "MeasuredRule",
    "Neighbour",
    "Rule",
    "TokenWeight",
    "describe_latents",
    "nearest_latents",
    "promoted_tokens",
    "read_latents",
]
