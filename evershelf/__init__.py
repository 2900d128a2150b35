"""What every part of Evershelf shares: contracts, settings, errors, storage, lake, snapshot, telemetry, shops and the command line."""
