"""The conformance kit's checks of the SQLite logger."""

import sqlite3
from contextlib import closing

import pytest

from leyden_testing import LoggerConformance


def ask(logger, query):
    with closing(sqlite3.connect(logger.file)) as connection:
        return connection.execute(query, (logger.name, str(logger.version))).fetchall()


class TestSQLiteLogger(LoggerConformance):
    @pytest.fixture
    def name(self):
        return "sqlite"

    @pytest.fixture
    def read(self):
        def series(logger):
            found = {}
            of_run = "SELECT id FROM run WHERE name = ? AND version = ?"
            query = f"SELECT name, step, value FROM metric WHERE run = ({of_run}) ORDER BY step"
            for name, step, value in ask(logger, query):
                found.setdefault(name, []).append((step, float("nan") if value is None else value))
            return found

        return series

    @pytest.fixture
    def read_hyperparams(self):
        of_run = "SELECT id FROM run WHERE name = ? AND version = ?"
        return lambda logger: dict(ask(logger, f"SELECT name, value FROM hyperparameter WHERE run = ({of_run})"))
