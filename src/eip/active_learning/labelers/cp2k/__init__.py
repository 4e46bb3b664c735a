"""CP2K: one input file, one process, one output that is believed only if it is whole."""
