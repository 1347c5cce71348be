"""Data sets: what their lines hold (`records.py`) and how they are read (`reading.py`)."""
