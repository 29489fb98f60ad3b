"""The RLlib and Tune floor: the only place that touches their internals."""

import warnings

# RLlib imports dm_control where that is installed, which tries for a screen and tells that there is none.
warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
