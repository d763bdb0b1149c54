"""DeepSpeed's engine as a strategy of Leyden; users import the classes from ``leyden.strategies``."""
