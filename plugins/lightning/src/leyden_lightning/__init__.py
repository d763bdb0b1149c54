"""What Leyden and Lightning have of each other's: the place in a fit, in checkpoints that either reads."""
