"""Flatness along training against dense oracles, and with the norms of the layers divided out."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [nets]")
pytest.importorskip("curvlinops", reason="needs the extra [nets]")

from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure.curvature import hessian
from nets.measure.subject import as_subject
from notebooks.studies.noise_and_curvature import dynamics


def test_flatness_is_the_geometric_mean_of_widths():
    assert dynamics.flatness(np.array([4.0, 16.0])) == pytest.approx((0.5 * 0.25) ** 0.5)
    assert np.isnan(dynamics.flatness(np.array([4.0, -1.0])))


def test_rescaling_keeps_the_classifier_and_sets_the_norms():
    net = models.fully_connected((6, 7, 5, 4), rng=0).double()
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 6)))
    other = dynamics.rescaled(net, (1.0, 2.0, 3.0))
    assert dynamics.layer_norms(other) == pytest.approx((1, 2, 3))
    factor = np.prod(np.array([1.0, 2.0, 3.0]) / dynamics.layer_norms(net))
    with torch.no_grad():
        assert other(inputs).numpy() == pytest.approx(factor * net(inputs).numpy())
    with pytest.raises(ValueError, match="without biases"):
        dynamics.rescaled(models.fully_connected((3, 2), bias=True, rng=0), (1.0,))


@pytest.mark.parametrize(
    "optimizer", [{"batch_size": 50}, {"optimizer": "gd"}, {"optimizer": "gd_isotropic_noise", "noise": 1e-5}]
)
def test_flatness_along_training_is_what_each_stop_has_by_itself(optimizer):
    data = datasets.load("digits").subset(300)
    net = models.fully_connected((64, 10, 10, 10), rng=0)
    start = train.sgd(net, data, learning_rate=0.1, epochs=1, rng=0, **optimizer)
    found = dynamics.flatness_dynamics(start, epochs=[1, 4], count=5, norms=dynamics.layer_norms(net))
    later = train.continued(start, 3)
    for place, run in enumerate((start, later)):
        H = hessian(as_subject(run.net, data.train_inputs, data.train_labels, layer=1)).to_numpy()
        top = np.linalg.eigvalsh(H)[::-1][:5]
        assert float(found.flatness[place]) == pytest.approx(dynamics.flatness(top), rel=1e-6)
        assert float(found.loss[place]) == pytest.approx(run.loss, rel=1e-12)
        assert int(found.step[place]) == run.step
        back = dynamics.rescaled(run.net, dynamics.layer_norms(net))
        there = dynamics.top_curvatures(back, data.train_inputs, data.train_labels, count=5, layer=1)
        assert found.eigenvalue_rescaled[place].to_numpy() == pytest.approx(there, rel=1e-9)
    assert found.attrs["optimizer"] == start.recipe.optimizer.name
    with pytest.raises(ValueError, match="ascend"):
        dynamics.flatness_dynamics(later, epochs=[1, 4])
