"""Asks Gemini as any user of google-genai would, with an OIDC token in place of a Google credential.

Usage: generate.py once|stream|async|tokens ADDRESS TOKEN PROJECT LOCATION
Prints one JSON object: {"pieces": [...], "model_version": ...}, {"tokens": ...}, or {"refused": CLASS, "code": ...,
"status": ..., "message": ...}.
"""

import asyncio
import json
import sys

from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

way, address, token, project, location = sys.argv[1:]
client = genai.Client(
    vertexai=True,
    project=project,
    location=location,
    credentials=Credentials(token),
    http_options=types.HttpOptions(base_url=address),
)
asked = {"model": "gemini-2", "contents": "what comes?"}


def shown(answers):
    return {"pieces": [answer.text for answer in answers], "model_version": answers[-1].model_version}


async def streamed():
    stream = await client.aio.models.generate_content_stream(**asked)
    return [answer async for answer in stream]


ways = {
    "once": lambda: shown([client.models.generate_content(**asked)]),
    "stream": lambda: shown(list(client.models.generate_content_stream(**asked))),
    "async": lambda: shown(asyncio.run(streamed())),
    "tokens": lambda: {"tokens": client.models.count_tokens(**asked).total_tokens},
}
try:
    answer = ways[way]()
except errors.APIError as refused:
    kind = type(refused)
    answer = {"refused": kind.__name__, "code": refused.code, "status": refused.status, "message": refused.message}
print(json.dumps(answer))
