# SPDX-License-Identifier: Apache-2.0
"""Many runs: an experiment's YAML file, the controller that makes its runs, and their comparison.

experiment.py   the YAML file, checked
sampling.py     which values each combination has
runs.py         `python -m experiments.runs list | compare | best | promote`
run_folder.py   what a run's folder says of it
comparison.py   the table of several runs
registry.py     numbered versions of a model, with aliases
halving.py      `early_terminate`: which combinations end before the others
bayes.py        `method: bayes`, with Optuna
controller.py   `--mode experiment --executor local`
journal.py      what the controller has done, for the next start
child.py        a run as a process of its own
hparams.py      TensorBoard's HParams tab
launcher.py     the process between the controller and a run
"""
