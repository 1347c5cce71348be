"""The checks, a function each: `Subject` -> findings. `engine.CHECKS` names them all."""
