"""Predicts as any user of the SDK would, with an OIDC token in place of a Google credential.

Usage: predict.py endpoint|client ADDRESS TOKEN PROJECT LOCATION ENDPOINT INSTANCES
`endpoint` is aiplatform.Endpoint.predict, which reads the endpoint first; `client` is the service's client alone.
Prints one JSON object: {"predictions": ..., "model_version": "..."}, or {"refused": CLASS, "message": "..."}.
"""

import json
import sys

from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.cloud import aiplatform
from google.oauth2.credentials import Credentials

way, address, token, project, location, endpoint, instances = sys.argv[1:]
name = f"projects/{project}/locations/{location}/endpoints/{endpoint}"
instances = json.loads(instances)


def by_endpoint():
    aiplatform.init(
        project=project,
        location=location,
        api_endpoint=address,
        api_transport="rest",
        credentials=Credentials(token),
    )
    answer = aiplatform.Endpoint(name).predict(instances=instances)
    return answer.predictions, answer.model_version_id


def by_client():
    client = aiplatform.gapic.PredictionServiceClient(
        transport="rest",
        credentials=Credentials(token),
        client_options=ClientOptions(api_endpoint=address),
    )
    answer = client.predict(endpoint=name, instances=instances)
    # protobuf values, which the high level class would turn into plain ones
    return len(answer.predictions), answer.model_version_id


try:
    predictions, version = {"endpoint": by_endpoint, "client": by_client}[way]()
except exceptions.GoogleAPICallError as refused:
    print(json.dumps({"refused": type(refused).__name__, "message": str(refused)}))
else:
    print(json.dumps({"predictions": predictions, "model_version": version}))
