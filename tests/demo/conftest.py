"""The daemon's house, for the board of the demo."""

from tests.daemon.conftest import board_house as board_house
from tests.daemon.conftest import house as house
