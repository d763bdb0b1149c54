"""Broken environments: each is that of a made-up cluster, "grid", with one thing wrong."""

import os

from leyden.plugins import Environment
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing import EnvironmentConformance

from .twins import breaks


def variables(rank, local_rank, node_rank, world_size):
    numbers = {"GRID_RANK": rank, "GRID_LOCAL": local_rank, "GRID_NODE": node_rank, "GRID_SIZE": world_size}
    return {name: str(number) for name, number in numbers.items()}


def broken(check, message):
    return breaks(EnvironmentConformance, check, message, variables=variables)


class Grid(Environment):
    """Reads the variables of the made-up cluster."""

    creates_processes_externally = True
    main_address = "10.0.0.1"
    main_port = 23456

    @staticmethod
    def detect():
        return "GRID_RANK" in os.environ

    def number(self, name):
        if name not in os.environ:
            raise MisconfigurationException(f"The environment variable {name} is missing; the grid sets it.")
        return int(os.environ[name])

    def world_size(self):
        return self.number("GRID_SIZE")

    def set_world_size(self, size):
        pass

    def global_rank(self):
        return self.number("GRID_RANK")

    def set_global_rank(self, rank):
        pass

    def local_rank(self):
        return self.number("GRID_LOCAL")

    def node_rank(self):
        return self.number("GRID_NODE")

    def validate_settings(self, num_devices, num_nodes):
        if num_devices * num_nodes != self.world_size():
            raise MisconfigurationException(
                f"devices={num_devices} and num_nodes={num_nodes} are not the grid's {self.world_size()} processes."
            )


@broken("it_is_detected_where_it_applies", "detect()")
class Everywhere(Grid):
    @staticmethod
    def detect():
        return True


@broken("every_process_learns_its_ranks", "gets (")
class Flat(Grid):
    def local_rank(self):
        return self.global_rank()


@broken("all_processes_connect_to_one_address", "different addresses")
class Scattered(Grid):
    @property
    def main_port(self):
        return 10000 + self.global_rank()


@broken("it_reads_the_variables_when_it_is_asked", "(3, 4)")
class Hasty(Grid):
    def __init__(self):
        self.rank = int(os.environ.get("GRID_RANK", 0))

    def global_rank(self):
        return self.rank


@broken("the_creator_of_the_processes_decides_their_ranks", "after rank 0 of 2 was set")
class Halfhearted(Grid):
    size = None

    def world_size(self):
        return self.size or super().world_size()

    def set_world_size(self, size):
        self.size = size


@broken("wrong_numbers_of_processes_are_refused", "DID NOT RAISE")
class Careless(Grid):
    def validate_settings(self, num_devices, num_nodes):
        pass


@broken("a_missing_variable_is_a_sentence", "KeyError")
class Terse(Grid):
    def number(self, name):
        return int(os.environ[name])


@broken("it_says_by_what_signal_a_job_ends", "10")
class Numeric(Grid):
    requeue_signal = 10


@broken("teardown_restores_the_variables", "MASTER_PORT")
class Leaving(Grid):
    @property
    def main_port(self):
        os.environ["MASTER_PORT"] = "23456"
        return 23456
