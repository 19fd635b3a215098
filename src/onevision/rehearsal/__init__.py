"""Rehearsal: the real nightly refresh, night after night, on days cut from one log, with faults on purpose."""
