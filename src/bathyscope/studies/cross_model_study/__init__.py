"""The cross-model study: what one model says of another's representations."""
