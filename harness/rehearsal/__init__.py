"""A rehearsal with many runs: `rehearsal` makes it, `witness` says what must not be seen, `figures` what came of it."""
