"""What a model is shown, and how what it writes is read: templates, the step grammar, tokenisation.

`solve.txt` and `judge.txt` are quoted from Figures 4 and 5 of arXiv:2503.03746.
"""
