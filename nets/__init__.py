"""Networks: train real ones and check the predictions of theory on them.

sgd: train one net by stochastic gradient descent; returns a Run that can be continued or replayed to the bit.
replicas: train nets of one shape side by side, a Run each.
Recipe: how a net is trained, each number once; sgd and replicas take a Recipe or its fields as keywords.
continued: the same Run, or Runs, after further epochs.
record: continue a Run and record the weights of one layer after each minibatch.
record_and_continue: record, and the Run or Runs at the end of the window.
Run: a trained net with its data, settings, history and state of the optimiser.
weights_along: the weights of several trainings after chosen epochs, as one Dataset.
net_at: the net of one training after one of those epochs.
fully_connected: a net of fully connected layers with ReLU between them.
logistic: multinomial logistic regression, a single layer.
lenet_mnist: the papers' convolutional net for MNIST.
lenet_cifar10: the papers' convolutional net for CIFAR-10.
load: a public data set by name, standardised, with training and test rows apart.
from_npz: a data set of one's own from an npz file.
Data: inputs and labels of a classification problem, training and test rows apart.
Subject: the mean loss of any torch model on some data, as a function of chosen weights.
per_sample_gradients: the gradient of each sample's loss.
noise_covariance: the covariance of minibatch gradients, exact at the weights given.
noise_trace: the trace of the covariance of single samples' gradients, for any number of weights.
hessian: the Hessian of the mean loss as a dense matrix.
fisher: the Fisher matrix of the samples, with the labels of the net or of the data.
top_eigenpairs: the largest eigenvalues of the Hessian and their directions, by Lanczos.
spectral_density: the density of all eigenvalues of the Hessian, by stochastic Lanczos quadrature.
noise_alignment: noise covariance and both Fisher matrices beside the Hessian at the same weights.
analyse: the principal components of recorded weights, variances and motion along them.
widths: the flatness of the loss along directions, the distance between its two crossings of e L₀.
active_temperature: the temperature T_i of minibatch noise along directions, at chosen distances.
measure_valley: sharp curvatures, mean loss and noise along a flat direction of a trained net.
models: the module nets.models, the papers' networks and their initial weights.
training: the package nets.training, with SGD, recorded windows and saved runs.
datasets: the module nets.data.datasets, data sets as tensors.
principal_components: the module nets.measure.components, principal components of recorded weights.
loss_widths: the module nets.measure.loss_widths, widths and profiles of the loss along directions.
exponents: the module nets.measure.exponents, power laws between quantities of the modes.
controls: the module nets.measure.controls, null models for these exponents.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
