"""Every fault of the scoreboard against the real processes, judged by one oracle."""

import pytest

pytest.register_assert_rewrite("tests.faults.rig")
