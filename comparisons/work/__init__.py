"""Pieces of work that are kept, and run anywhere: in this process, on all cores, on a cluster."""
