"""Step search with self-judging (paper §3.3): candidates, verdicts, scores, roll-back, pairs.

`step_search.py` is the method; `judge.py` asks, `scores.py` counts, `stage.py` and `merge.py` are the stages.
"""
