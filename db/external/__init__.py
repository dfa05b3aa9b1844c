"""Other people's databases, which the operator has configured: read page by page, and written one table at a time.

Knows SQLAlchemy's dialects. Must not know our own tables, schedules, or what documents and labels are.
"""

from db.external.engine import answers, parsed_url
from db.external.queries import refuse_statements
from db.external.reading import Rows
from db.external.table import Column, LabelTable

__all__ = ["Column", "LabelTable", "Rows", "answers", "parsed_url", "refuse_statements"]
