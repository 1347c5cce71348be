"""Greedy accuracy of a model on a problem file (paper §4): asking, grading, oracles of single steps.

`stage.py` is the stage, `grading.py` compares answers in a process of its own, `oracle.py` judges single steps.
"""
