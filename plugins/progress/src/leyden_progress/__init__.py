"""Terminal output of a run: progress bars, the model's summary and the table of results."""
