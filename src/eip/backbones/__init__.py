"""Networks that others trained, as they are in their packages; none is imported before it is used.

Their weights are never copied: a model file says which package, version and weights (sha256) it
stands on, and a network is taken from its package only where they are the same.
"""
