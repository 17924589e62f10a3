"""Statistics: inference over items, effects, depths, curves over layers, crossed designs.

The primitives of ``inference`` are public under this name.
"""

from .inference import Bounds as Bounds
from .inference import Interval as Interval
from .inference import above_chance as above_chance
from .inference import benjamini_hochberg as benjamini_hochberg
from .inference import exact_interval as exact_interval
from .inference import holm as holm
from .inference import joint_sign_flip_p as joint_sign_flip_p
from .inference import mcnemar_exact as mcnemar_exact
from .inference import mcnemar_p_values as mcnemar_p_values
from .inference import mean_p_values as mean_p_values
from .inference import paired_bootstrap as paired_bootstrap
from .inference import percentile_bounds as percentile_bounds
from .inference import rank_correlations as rank_correlations
from .inference import share_lost as share_lost
from .inference import shares as shares
from .inference import sign_flip_p_values as sign_flip_p_values
from .resampling import generator as generator
from .resampling import resample_counts as resample_counts
from .resampling import resample_indices as resample_indices
from .resampling import resampled_means as resampled_means
