"""Artefacts: folders of immutable files that exist once their `manifest.json` does.

`manifest.py` says what an artefact is, `publishing.py` writes one, `fetching.py` reads one, `parts.py` is one artefact
written by several ranks, `journal.py` the log of half-done work, `ownership.py` who may write where, `checkpoints.py`
where the parts of a model lie, `fingerprint.py` how a server proves which weights it serves, `pruned.py` what stays of
weights that retention removed. How bytes get to a store is `psr_runtime.storage`.
"""
