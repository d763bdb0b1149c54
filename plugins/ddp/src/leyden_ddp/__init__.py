"""Training in several processes for Leyden; users import strategies and environments from ``leyden``'s windows."""
