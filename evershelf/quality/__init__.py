"""What the checks of each day found, kept beside the lake: validation results, what a day looked like, and where it drifted from the weeks before."""
