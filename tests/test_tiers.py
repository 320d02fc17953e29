"""Tests that share what is dear run in one process, one after another."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in one process")
def test_what_shares_something_dear_goes_to_one_process(request: pytest.FixtureRequest) -> None:
    """xdist reads a group from the name of a test, and says nothing where it finds none."""
    groups = [(item.nodeid, item.get_closest_marker("xdist_group")) for item in request.session.items]
    marked = [(name, mark.args[0]) for name, mark in groups if mark]
    assert marked
    assert [name for name, group in marked if not name.endswith(f"@{group}")] == []
