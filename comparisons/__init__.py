"""Comparisons: model against reference, behaviour, figures, and the command line."""
