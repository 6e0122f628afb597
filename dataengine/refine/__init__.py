"""Refinement: a student learns from the fused poses of a build, and a gate decides whether its generation counts.

The files named after components are students (`dataengine.core.component.Student`). The others are what all students
share: `loop` owns epochs, optimiser and checkpoints, `pseudo_labels` makes labelled frames, `gate` judges generations.
"""
