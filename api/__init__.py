"""HTTP in, JSON out.

The only place that knows Flask. A blueprint a file; a view parses, calls one function of `db` or `corpora`, and shapes the
answer. Must not know torch: a model is known here by what `catalog` reads of its files.
"""
