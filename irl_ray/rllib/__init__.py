"""The RLlib and Tune floor: the only place that touches their internals."""
