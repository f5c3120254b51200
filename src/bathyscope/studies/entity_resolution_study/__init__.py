"""The entity-resolution study: from which layer on a model can say what a name stands for."""
