"""Decides what is live: the promotion log, the promoter, the judge and the way back."""
