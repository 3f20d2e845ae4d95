"""A trainer to register plug-ins with."""

import pytest
from helpers import Make, Observer

from helios import Trainer


@pytest.fixture
def trainer(make_trainer: Make) -> Trainer:
    """A trainer with two plug-ins, which pluggy has been told of."""
    made = make_trainer(plugins=[Observer("first"), Observer("second")])
    made.plugin_manager.arrange()
    return made
