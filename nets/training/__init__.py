"""Training of networks by SGD: runs, recorded windows, checkpoints.

sgd: train one net by stochastic gradient descent; returns a Run that can be continued or replayed to the bit.
replicas: train nets of one shape side by side, a Run each.
Recipe: how a net is trained, each number once; sgd and replicas take a Recipe or its fields as keywords.
Plain: the optimiser w ← w − α g, with the gradient of a minibatch.
Momentum: the optimiser v ← m v + g, w ← w − α v.
Adam: the optimiser of bias-corrected moments of g and g².
GradientDescent: the optimiser w ← w − α g, with the gradient over all samples.
IsotropicNoise: gradient descent with white noise, the Langevin equation.
FlatnessNoise: gradient descent with noise whose covariance is the Gauss–Newton Hessian.
continued: the same Run, or Runs, after further epochs.
record: continue a Run and record the weights of one layer after each minibatch.
record_and_continue: record, and the Run or Runs at the end of the window.
exploration_start: the first epoch of the exploration phase of a Run.
weights_along: the weights of several trainings after chosen epochs, as one Dataset.
net_at: the net of one training after one of those epochs.
save: write one Run or several to a safetensors file.
load: the Runs in such a file, which can be continued to the bit.
Run: a trained net with its data, settings, history and state of the optimiser.
Diverged: the error of a training whose numbers are no longer finite or whose gradient has vanished.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
