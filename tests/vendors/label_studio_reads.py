"""Run by a Python that has `label-studio-sdk`: judges a file of tasks by the vendor's own models and validator, and reads a
project of the server at ADDRESS by the vendor's own client. Prints what it read, as JSON."""

import json
import sys
from pathlib import Path

from label_studio_sdk.client import LabelStudio
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import TaskValue

address, path, config = sys.argv[1:]
interface = LabelInterface(config)
interface.validate()
tasks = json.loads(Path(path).read_text(encoding="utf-8"))
faults = []
for task in tasks:
    TaskValue.model_validate(task)
    variables = {each.value_name for each in interface.objects if each.value_is_variable}
    faults += [f"{name} is missing" for name in variables - set(task["data"])]
    for prediction in task["predictions"]:
        faults += interface.validate_prediction(prediction, return_errors=True)
client = LabelStudio(base_url=address, api_key="legacy")
project = client.projects.get(id=1)
theirs = project.get_label_interface()
theirs.validate()
read = []
for task in client.tasks.list(project=1, fields="all"):
    for prediction in task.predictions:
        given = {"result": prediction.result, "score": prediction.score}
        faults += theirs.validate_prediction(given, return_errors=True)
    read.append({"data": task.data, "versions": [each.model_version for each in task.predictions]})
made = client.projects.import_tasks(id=1, request=tasks, return_task_ids=True)
print(json.dumps({"faults": faults, "read": read, "imported": made.task_count}))
