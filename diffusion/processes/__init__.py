"""The processes of the literature in closed form, and `Affine`, by quadrature.

======================  =================================  ===============================================
process                 alpha                              sigma^2
======================  =================================  ===============================================
`VP`                    exp(-B/2), B = int beta            1 - exp(-B)
`SubVP`                 exp(-B/2)                          (1 - exp(-B))^2
`VE`                    1                                  sigma_min^2 ((sigma_max / sigma_min)^(2 t) - 1)
`RectifiedFlow`         1 - t                              t^2
`EDM`                   1                                  t^2
======================  =================================  ===============================================

`VariancePreserving` is VP with any beta(t), `Cosine` the one whose alpha is a cosine.
"""

from .affine import Affine
from .exploding import EDM, VE
from .preserving import VP, Cosine, SubVP, VariancePreserving
from .rectified import RectifiedFlow

__all__ = ["EDM", "VE", "VP", "Affine", "Cosine", "RectifiedFlow", "SubVP", "VariancePreserving"]
