"""Who started this process and which of the run's processes it is: one module per cluster or launcher."""
