"""Candidates: written once per snapshot, read by the gateway from local disk or from Redis."""
