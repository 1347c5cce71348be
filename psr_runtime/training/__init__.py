"""Training: supervised fine-tuning (paper §3.2) and step-wise DPO (§3.4) on transformers' Trainer.

`stage.py` holds both stages and reads top to bottom. What varies has a folder each: `objectives/` (what is trained on,
the loss, what is said at the end), `layouts/` (how pairs become token sequences), `strategies/` (how processes share
the work). What they share stands beside them: records as token sequences, the order of updates, log-probabilities, the
training loop, resumable states, checkpoints, fingerprints. Nothing here samples, judges or serves.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models come by URI; no library may look elsewhere for them
