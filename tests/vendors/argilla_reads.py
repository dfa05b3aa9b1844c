"""Run by a Python that has `argilla`: reads a dataset of the server at ADDRESS by the vendor's own client, and logs the
records of a file of JSON lines into it. Prints what it read, as JSON."""

import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import argilla as rg  # noqa: E402

address, path = sys.argv[1:]
client = rg.Argilla(api_url=address, api_key="key", retries=0)
dataset = client.datasets("reviews", workspace="team")
pushed = [
    {
        "id": record.id,
        "fields": dict(record.fields),
        "suggestions": [
            {"question": each.question_name, "value": each.value, "score": each.score, "agent": each.agent}
            for each in record.suggestions
        ],
        "responses": [
            {"question": each.question_name, "value": each.value, "status": each.status.value}
            for each in record.responses
        ],
    }
    for record in dataset.records(with_suggestions=True, with_responses=True)
]
with Path(path).open(encoding="utf-8") as file:
    mapping = {"label.score": "label.suggestion.score", "label.agent": "label.suggestion.agent"}
    dataset.records.log([json.loads(line) for line in file], mapping=mapping)
print(json.dumps(pushed))
