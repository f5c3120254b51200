"""The toy of the feature-circuit post: a network for subject-verb agreement, its sparse coder, and their graph."""
