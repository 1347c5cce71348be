"""Greedy accuracy of a model on a problem file (paper §4): asking and grading.

`stage.py` is the stage; `benchmarks/` says how a problem file is read and what is asked, `graders/` compares answers. A
manifest names one of each.
"""
