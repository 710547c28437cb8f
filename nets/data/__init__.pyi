from nets.data.datasets import Data as Data
from nets.data.datasets import from_npz as from_npz
from nets.data.datasets import gaussian_clusters as gaussian_clusters
from nets.data.datasets import load as load
