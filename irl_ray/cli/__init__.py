"""Command lines: `rllib` (training, evaluation, resuming) and `irl-ray` (everything without Ray).

rllib.py, irl_ray.py                            arguments, and which module answers
experiment.py                                   files of experiments, read and checked before Ray starts
examples, addresses, environments               by what names files, experiments and environments are found
old_files, old_options                          what older RLlib took: translated, or refused in one line
runner.py                                       one experiment after the other, under Tune
runs, resuming, records                         folders of runs, carrying them on, whole records of them
scheduling, placement, connecting, metrics      Ctrl-C, waits, dead clusters, metrics that never come
progress, labels, text                          what is printed
evaluation, stock, film                         agents of ours, of RLlib's, and pictures of episodes
inside, demonstrations                          looks into a model, collecting and converting data
"""
