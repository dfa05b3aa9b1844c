"""What a night does: reads a source, has a job run over what is new, delivers the results, and says what happened.

Knows schedules and their runs, stage by stage. Must not know HTTP, SQL, torch or the broker's messages; databases of other
people are reached through `db`.
"""
