"""Each prints a ratio against a named peer, measured in one run on one machine."""
