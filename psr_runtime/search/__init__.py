"""Search with self-judging (paper §3.3): candidates, scores, roll-back, pairs.

`strategies/` searches one problem, `judges/` scores the candidates of one level; a manifest names one of each. What any
strategy needs stands beside them: `problems.py` reads, `candidates.py` cuts what was sampled, `scores.py` counts,
`pairs.py` writes the pair set, `statistics.py` says what is in it. `stage.py` and `merge.py` are the stages.
"""
