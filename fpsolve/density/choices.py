"""Words that choose how a density is computed; the command line lists them without loading a solver."""

from typing import Literal, TypeAlias

#: How a density is computed; how the convective flux is put on the faces of an axis; what ends the box.
Method: TypeAlias = Literal["finite-volume", "chain", "spectral"]
BackwardMethod: TypeAlias = Literal["finite-volume", "chain"]
Scheme: TypeAlias = Literal["central", "exponential", "upwind", "chain"]
Walls: TypeAlias = Literal["far", "reflecting", "periodic"]
