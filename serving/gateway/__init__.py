"""Answers shoppers: the ladder, its rungs, and the HTTP API."""
