"""The conformance kit's checks of the quux environment."""

import pytest
from leyden_testing import EnvironmentConformance


class TestQuux(EnvironmentConformance):
    @pytest.fixture
    def name(self):
        return "quux"

    @pytest.fixture
    def variables(self):
        """A function that returns the variables that the scheduler sets for a process."""
        return lambda rank, local_rank, node_rank, world_size: {
            "QUUX_RANK": str(rank),
            "QUUX_LOCAL_RANK": str(local_rank),
            "QUUX_NODE_RANK": str(node_rank),
            "QUUX_WORLD_SIZE": str(world_size),
            "QUUX_ADDRESS": "10.0.0.1",
            "QUUX_PORT": "29500",
        }
