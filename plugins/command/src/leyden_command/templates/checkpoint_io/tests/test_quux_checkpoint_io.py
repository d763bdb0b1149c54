"""The conformance kit's checks of the quux checkpoint IO, and a test that its files are private."""

import stat

import pytest
from leyden_testing import CheckpointIOConformance

from leyden_quux.checkpoint_io import QuuxCheckpointIO


class TestQuux(CheckpointIOConformance):
    @pytest.fixture
    def name(self):
        return "quux"


def test_only_the_owner_may_read_a_file(tmp_path):
    path = tmp_path / "a.ckpt"
    for _ in range(2):
        QuuxCheckpointIO().save_checkpoint({"epoch": 1}, str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]
