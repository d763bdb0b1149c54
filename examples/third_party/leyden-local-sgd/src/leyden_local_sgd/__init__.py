"""Local SGD as a strategy of Leyden: ``Trainer(strategy="local_sgd", devices=4)``."""
