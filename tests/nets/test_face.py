"""The face of nets: every name leads to its definition, and importing the face loads nothing heavy."""

import subprocess
import sys

import pytest

import nets


def test_import_nets_does_not_load_torch():
    code = "import sys, nets; dir(nets); print([m for m in ('torch', 'xarray', 'numba') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", nets.__all__)
def test_every_name_of_the_face_is_there(name):
    assert getattr(nets, name) is not None


def test_modules_of_the_face():
    from nets.data import datasets
    from nets.measure import components

    assert nets.principal_components is components
    assert nets.datasets is datasets
    assert nets.exponents.__name__ == "nets.measure.exponents"
    with pytest.raises(AttributeError, match="it has Data, Recipe, Run, Subject"):
        _ = nets.no_such_name
