"""The multi-hop study: two-hop answers corrected and broken by moving a representation."""
