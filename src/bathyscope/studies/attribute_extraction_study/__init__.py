"""The attribute-extraction study: what a model says of a subject, against what a probe tells."""
