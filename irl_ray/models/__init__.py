"""Sequence models, metacontroller and code policy in plain PyTorch.

Shape legend, used in every docstring here:

    B  sequences in a batch        T  time steps            N  rows in the step form
    d  residual width (n_e)        L  number of layers      l  a layer, 0 = the embedding
    z  code dimensions (n_z)       r  controller rank       A  actions
    E  entities of the observation C  cells of the grid

Every sequence module has two forms that compute the same: a *parallel* form over [B, T, d] for
training, and a *step* form over [N, d] with an explicit state for acting. A state is a dictionary
of tensors whose first axis is the row and whose initial value is zero everywhere, so resetting a
row is writing zeros into it (`reset_rows`).
"""
