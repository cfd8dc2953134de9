"""Back to the version before, as somebody does whom the new one disappoints."""

from __future__ import annotations

from tests.system.substrate import owner
from tests.system.substrate.container import Container
from tests.system.substrate.packages import OLDER
from tests.system.test_1_service import UNIT, answers, warnings
from tests.system.test_3_packages import OLDER_PACKAGES, installed, set_up


def test_a_downgrade_keeps_models_and_settings(container: Container) -> None:
    owner.add_repository(container)
    set_up(container)
    assert installed(container) != OLDER
    owner.apt(container, f"install --allow-downgrades {OLDER_PACKAGES}")
    assert installed(container) == OLDER
    assert container.show(UNIT, "ActiveState") == "active"
    container.until("an answer", lambda: answers(container))
    assert [one for one in warnings(container) if "No librkllmrt.so was found" not in one] == []
