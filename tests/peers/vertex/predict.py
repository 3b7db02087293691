"""Calls Endpoint.predict as any user of the SDK would, with an OIDC token in place of a Google credential.

Usage: predict.py ADDRESS TOKEN PROJECT LOCATION ENDPOINT INSTANCES
Prints one JSON object: {"predictions": [...], "model_version": "..."}, or {"refused": CLASS, "message": "..."}.
"""

import json
import sys

from google.api_core import exceptions
from google.cloud import aiplatform
from google.oauth2.credentials import Credentials

address, token, project, location, endpoint, instances = sys.argv[1:]
aiplatform.init(
    project=project,
    location=location,
    api_endpoint=address,
    api_transport="rest",
    credentials=Credentials(token),
)
try:
    answer = aiplatform.Endpoint(
        f"projects/{project}/locations/{location}/endpoints/{endpoint}"
    ).predict(instances=json.loads(instances))
except exceptions.GoogleAPICallError as refused:
    print(json.dumps({"refused": type(refused).__name__, "message": str(refused)}))
else:
    print(
        json.dumps(
            {
                "predictions": answer.predictions,
                "model_version": answer.model_version_id,
            }
        )
    )
