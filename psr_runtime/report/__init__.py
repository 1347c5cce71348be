"""The report over a run: `results.json` for programs and one self-contained `report.html` for people.

`results.py` reads the artefacts, `statistics.py` and `compare.py` count, `figures.py` and `html.py` draw, `stage.py`
is the stage. Nothing here computes what an artefact already says.
"""
