"""Two results that several modules look at: one of each path."""

import pytest
from driver.shared import host_plateau, minimize


@pytest.fixture(scope="session")
def compiled():
    return minimize()


@pytest.fixture(scope="session")
def hosted():
    return minimize(host_plateau, budget=20)
