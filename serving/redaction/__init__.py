"""Takes forgotten shoppers out of all that is stored: `evershelf run redact`."""
