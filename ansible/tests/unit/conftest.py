"""The collection where Ansible looks for it, and what the tests have in common."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def loaded(path):
    """A plugin's file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem + "_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def node():
    return loaded(ROOT / "plugins/modules/node.py")


@pytest.fixture(scope="session")
def hosts():
    return loaded(ROOT / "plugins/inventory/hosts.py")
