"""Seeds the random numbers that datasets draw, for Leyden."""
