"""Training: supervised fine-tuning (paper §3.2) and step-wise DPO (§3.4) on transformers' Trainer.

`sft.py` and `step_dpo.py` are the stages and read top to bottom; what they share stands beside them: data as token
sequences, the order of updates, log-probabilities, the training loop, resumable states, checkpoints, fingerprints.
Nothing here samples, judges or serves.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models come by URI; no library may look elsewhere for them
