"""Predicts as any user of the SDK would, with an OIDC token in place of a Google credential.

Usage: predict.py WAY TRANSPORT ADDRESS TOKEN PROJECT LOCATION ENDPOINT INSTANCES
TRANSPORT is `rest` (ADDRESS is a URL) or `grpc` (ADDRESS is host:port). WAY is one of

    endpoint  aiplatform.Endpoint.predict, which reads the endpoint first
    client    the service's client alone
    beta      the same of v1beta1
    raw       stream_raw_predict: the instances as bytes, the answer in pieces
    server    server_streaming_predict: one question, a stream of answers
    bidi      streaming_predict: streams both ways (gRPC alone has it)
    generate  stream_generate_content of a published model

Prints one JSON object: {"predictions": ..., "model_version": ...}, {"pieces": [...]}, or {"refused": CLASS, "status":
..., "message": ...}.
"""

import json
import sys

from google.api import httpbody_pb2
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.cloud import aiplatform, aiplatform_v1, aiplatform_v1beta1
from google.oauth2.credentials import Credentials

way, transport, address, token, project, location, endpoint, instances = sys.argv[1:]
parent = f"projects/{project}/locations/{location}"
name = f"{parent}/endpoints/{endpoint}"
instances = json.loads(instances)


def client(version=aiplatform_v1):
    return version.PredictionServiceClient(
        transport=transport,
        credentials=Credentials(token),
        client_options=ClientOptions(api_endpoint=address),
    )


def by_endpoint():
    aiplatform.init(
        project=project,
        location=location,
        api_endpoint=address,
        api_transport=transport,
        credentials=Credentials(token),
    )
    answer = aiplatform.Endpoint(name).predict(instances=instances)
    return {"predictions": answer.predictions, "model_version": answer.model_version_id}


def by_client(version=aiplatform_v1):
    answer = client(version).predict(endpoint=name, instances=instances)
    # protobuf values, which the high level class would turn into plain ones
    return {"predictions": len(answer.predictions), "model_version": answer.model_version_id}


def raw():
    body = httpbody_pb2.HttpBody(content_type="application/json", data=json.dumps(instances).encode())
    request = aiplatform_v1.StreamRawPredictRequest(endpoint=name, http_body=body)
    return {"pieces": [piece.data.decode() for piece in client().stream_raw_predict(request=request)]}


def question(number):
    tensor = aiplatform_v1.Tensor(dtype=aiplatform_v1.Tensor.DataType.INT64, int64_val=[number])
    return aiplatform_v1.StreamingPredictRequest(endpoint=name, inputs=[tensor])


def pieces(answers):
    return {"pieces": [list(answer.outputs[0].int64_val) for answer in answers]}


def server():
    return pieces(client().server_streaming_predict(request=question(1)))


def bidi():
    return pieces(client().streaming_predict(requests=iter([question(1), question(2)])))


def generate():
    contents = [aiplatform_v1.Content(role="user", parts=[aiplatform_v1.Part(text="what comes?")])]
    model = f"{parent}/publishers/google/models/gemini-2"
    answers = client().stream_generate_content(model=model, contents=contents)
    return {"pieces": [answer.candidates[0].content.parts[0].text for answer in answers]}


ways = {
    "endpoint": by_endpoint,
    "client": by_client,
    "beta": lambda: by_client(aiplatform_v1beta1),
    "raw": raw,
    "server": server,
    "bidi": bidi,
    "generate": generate,
}
try:
    answer = ways[way]()
except exceptions.GoogleAPICallError as refused:
    status = refused.grpc_status_code.name if refused.grpc_status_code else None
    answer = {"refused": type(refused).__name__, "status": status, "message": str(refused)}
print(json.dumps(answer))
