"""Lightning's module paths in Leyden, and checkpoints from which either resumes."""
