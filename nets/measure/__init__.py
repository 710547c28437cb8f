"""Measurements of a network: gradient noise, curvature, spectra, widths.

Subject: the mean loss of any torch model on some data, as a function of chosen weights.
as_subject: the Subject of a Run, or of a model with its data.
per_sample_gradients: the gradient of each sample's loss.
noise_covariance: the covariance of minibatch gradients, exact at the weights given.
noise_trace: the trace of the covariance of single samples' gradients, for any number of weights.
hessian: the Hessian of the mean loss as a dense matrix.
fisher: the Fisher matrix of the samples, with the labels of the net or of the data.
top_eigenpairs: the largest eigenvalues of the Hessian and their directions, by Lanczos.
spectral_density: the density of all eigenvalues of the Hessian, by stochastic Lanczos quadrature.
noise_alignment: noise covariance and both Fisher matrices beside the Hessian at the same weights.
analyse: the principal components of recorded weights, variances and motion along them.
project: the motion of recorded weights along directions chosen elsewhere.
widths: the flatness of the loss along directions, the distance between its two crossings of e L₀.
active_temperature: the temperature T_i of minibatch noise along directions, at chosen distances.
measure_valley: sharp curvatures, mean loss and noise along a flat direction of a trained net.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
