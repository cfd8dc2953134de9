"""The daemon's house, for what the command line does beside one."""

from tests.daemon.conftest import board_house as board_house
from tests.daemon.conftest import house as house
