"""A shard in, rows out.

The only place that knows torch. Entry points (`app`, `sweep`) → `runner` → `engines` and `models` → `device`.
"""
