"""Classifiers of our classes: the frozen feature encoder and the teacher."""
