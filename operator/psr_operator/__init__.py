"""Manifests, the planner and its executors: what decides, and what carries out (see psr_runtime for the work)."""
