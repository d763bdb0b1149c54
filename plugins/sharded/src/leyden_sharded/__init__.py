"""ZeRO, FSDP and tensor parallelism for Leyden; users import the classes from ``leyden.strategies``."""
